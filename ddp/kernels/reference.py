"""Every kernel again in plain NumPy float64, equation by equation: the oracle of the tests.

The layout is the slides': images (B, C, H, W), filters (OC, IC, K, K), linear weights (O, I) with
y = W x, labels t as one-hot rows. A batch stacks samples along the first axis, and gradients by
parameters are sums over it. Nothing is overwritten: results are returned.

Axes: B batch, H W input image, OH OW output image, C IC OC channels, K kernel size, I O features,
D degree, N any number of elements.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ddp.kernels.types import Float64, Int64


def _einsum(subscripts: str, *operands: Float64) -> Float64:
    """numpy.einsum with a known type: sum the product over the letters missing on the right."""
    result: Float64 = np.einsum(subscripts, *operands)
    return result


def linear_forward(x: Float64, w: Float64, b: Float64) -> Float64:
    """Slide "Linear (a.k.a. Fully Connected Layer)": y_i = sum_j W_ij x_j, and a bias.

    x: (B, I), w: (O, I), b: (O,) -> (B, O).
    """
    return _einsum("ij,sj->si", w, x) + b


def linear_backward_weight(x: Float64, dy: Float64) -> Float64:
    """Slide "Linear", back propagation: dL/dW_ij = dL/dy_i x_j, summed over the batch.

    x: (B, I), dy: (B, O) -> (O, I).
    """
    return _einsum("si,sj->ij", dy, x)


def linear_backward_bias(dy: Float64) -> Float64:
    """dL/db_i = dL/dy_i, summed over the batch (the slides have no bias): (B, O) -> (O,)."""
    return _einsum("si->i", dy)


def linear_backward_input(dy: Float64, w: Float64) -> Float64:
    """Slide "Linear", back propagation: dL/dx_j = sum_i w_ij dL/dy_i.

    dy: (B, O), w: (O, I) -> (B, I).
    """
    return _einsum("ij,si->sj", w, dy)


def _windows(x: Float64, kernel_size: int, padding: int) -> Iterator[tuple[int, int, Float64]]:
    """Every (i', j') with the view x_{b,ic,i+i',j+j'} over all i, j; x is 0 outside the image."""
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    OH, OW = (size - kernel_size + 1 for size in padded.shape[2:])
    for di in range(kernel_size):
        for dj in range(kernel_size):
            yield di, dj, padded[:, :, di : di + OH, dj : dj + OW]


def conv2d_forward(x: Float64, w: Float64, b: Float64, padding: int) -> Float64:
    """Slide "Convolution": y_{b,oc,i,j} = sum_{ic,i',j'} w_{oc,ic,i',j'} x_{b,ic,i+i',j+j'}, and a bias.

    x: (B, IC, H, W), w: (OC, IC, K, K), b: (OC,) -> (B, OC, OH, OW) with OH = H + 2 * padding - K + 1.
    """
    windows = _windows(x, w.shape[-1], padding)
    terms = [_einsum("oc,scij->soij", w[:, :, di, dj], window) for di, dj, window in windows]
    return _einsum("tsoij->soij", np.stack(terms)) + b[:, None, None]


def conv2d_backward_weight(x: Float64, dy: Float64, kernel_size: int, padding: int) -> Float64:
    """Slide "Convolution (Back propagation)", by w.

    dw_{oc,ic,i',j'} = sum_{b,i,j} dy_{b,oc,i,j} x_{b,ic,i+i',j+j'}.
    x: (B, IC, H, W), dy: (B, OC, OH, OW) -> (OC, IC, K, K).
    """
    dw = np.zeros((dy.shape[1], x.shape[1], kernel_size, kernel_size))
    for di, dj, window in _windows(x, kernel_size, padding):
        dw[:, :, di, dj] = _einsum("soij,scij->oc", dy, window)
    return dw


def conv2d_backward_bias(dy: Float64) -> Float64:
    """db_oc = sum_{b,i,j} dy_{b,oc,i,j} (the slides have no bias): (B, OC, OH, OW) -> (OC,)."""
    return _einsum("soij->o", dy)


def conv2d_backward_input(dy: Float64, w: Float64, padding: int, size: tuple[int, int]) -> Float64:
    """Slide "Convolution (Back propagation)", by x.

    dx_{b,ic,p,q} = sum of dy_{b,oc,i,j} w_{oc,ic,i',j'} over oc and all i + i' = p, j + j' = q.
    dy: (B, OC, OH, OW), w: (OC, IC, K, K), size: (H, W) -> (B, IC, H, W).
    """
    H, W = size
    padded = np.zeros((dy.shape[0], w.shape[1], H + 2 * padding, W + 2 * padding))
    OH, OW = dy.shape[2:]
    for di in range(w.shape[2]):
        for dj in range(w.shape[3]):
            term = _einsum("oc,soij->scij", w[:, :, di, dj], dy)
            padded[:, :, di : di + OH, dj : dj + OW] += term
    return padded[:, :, padding : padding + H, padding : padding + W]


def relu_forward(x: Float64) -> Float64:
    """Slide "ReLU": relu(x) = max(x, 0); same shape."""
    return np.maximum(x, 0)


def relu_backward(y: Float64, dy: Float64) -> Float64:
    """Slide "ReLU", derivatives of relu: dx = dy where x > 0 (so y > 0), 0 where x <= 0; same shape."""
    return np.where(y > 0, dy, 0)


def dropout(x: Float64, mask: Float64, p: float) -> Float64:
    """Srivastava et al., JMLR 2014, inverted: y = x mask / (1 - p), mask 0 or 1; same shape."""
    return x * mask / (1 - p)


def max_pool2d_forward(x: Float64, kernel_size: int) -> tuple[Float64, Int64]:
    """torch.nn.MaxPool2d (not in the slides): each window's maximum and its first place, row by row.

    x: (B, C, H, W) -> y, argmax: (B, C, H // k, W // k).
    """
    B, C, H, W = x.shape
    k, OH, OW = kernel_size, H // kernel_size, W // kernel_size
    blocks = x[:, :, : OH * k, : OW * k].reshape(B, C, OH, k, OW, k)
    windows = blocks.transpose(0, 1, 2, 4, 3, 5).reshape(B, C, OH, OW, k * k)
    return windows.max(axis=-1), windows.argmax(axis=-1)


def max_pool2d_backward(dy: Float64, argmax: Int64, kernel_size: int, size: tuple[int, int]) -> Float64:
    """The derivative of a maximum: dy goes to the place that was the maximum.

    dy, argmax: (B, C, H // k, W // k), size: (H, W) -> (B, C, H, W).
    """
    dx = np.zeros((*dy.shape[:2], *size))
    for s, c, i, j in np.ndindex(*dy.shape):
        di, dj = divmod(int(argmax[s, c, i, j]), kernel_size)
        dx[s, c, i * kernel_size + di, j * kernel_size + dj] = dy[s, c, i, j]
    return dx


def batchnorm_forward(x: Float64, gamma: Float64, beta: Float64, eps: float) -> Float64:
    """Ioffe and Szegedy (ICML 2015), Algorithm 1, on one shard: y = gamma (x - mean) / sqrt(var + eps) + beta.

    x: (N, C), a row a sample or a pixel, gamma, beta: (C,) -> (N, C).
    """
    return batchnorm_inference(x, gamma, beta, x.mean(axis=0), x.var(axis=0), eps)


def batchnorm_backward(x: Float64, dy: Float64, gamma: Float64, eps: float) -> tuple[Float64, Float64, Float64]:
    """Ioffe and Szegedy (ICML 2015), section 3, on one shard, by the chain rule through variance and mean.

    x, dy: (N, C), gamma: (C,) -> dx (N, C), dgamma (C,), dbeta (C,).
    """
    centred, variance = x - x.mean(axis=0), x.var(axis=0) + eps
    d_normalised = dy * gamma
    d_variance = np.sum(d_normalised * centred, axis=0) * -0.5 * variance**-1.5
    d_mean = -np.sum(d_normalised, axis=0) / np.sqrt(variance) - 2 * d_variance * np.mean(centred, axis=0)
    dx = d_normalised / np.sqrt(variance) + (2 * d_variance * centred + d_mean) / len(x)
    return dx, np.sum(dy * centred, axis=0) / np.sqrt(variance), np.sum(dy, axis=0)


def batchnorm_inference(
    x: Float64, gamma: Float64, beta: Float64, mean: Float64, variance: Float64, eps: float
) -> Float64:
    """Ioffe and Szegedy (ICML 2015), Algorithm 2: the same with statistics that are given.

    x: (N, C), gamma, beta, mean, variance: (C,) -> (N, C).
    """
    y: Float64 = gamma * (x - mean) / np.sqrt(variance + eps) + beta
    return y


def flatten_forward(x: Float64) -> Float64:
    """An image as one row in (C, H, W) order: (B, C, H, W) -> (B, C * H * W)."""
    B, C, H, W = x.shape
    return x.reshape(B, C * H * W)


def flatten_backward(dy: Float64, shape: tuple[int, int, int]) -> Float64:
    """The image back from its row: (B, C * H * W), shape (C, H, W) -> (B, C, H, W)."""
    return dy.reshape(dy.shape[0], *shape)


def softmax_forward(x: Float64) -> Float64:
    """Slide "softmax": y_i = exp(x_i) / sum_k exp(x_k): (B, C) -> (B, C)."""
    # Both sides of the fraction divided by exp(max x), so that neither overflows.
    exponentials: Float64 = np.exp(x - x.max(axis=1, keepdims=True))
    return exponentials / _einsum("sc->s", exponentials)[:, None]


def softmax_backward(y: Float64, dy: Float64) -> Float64:
    """Slide "Derivative of softmax": dy_i/dx_i = y_i (1 - y_i), dy_i/dx_j = -y_i y_j.

    y, dy: (B, C) -> dx: (B, C), where dL/dx_j = sum_i dL/dy_i dy_i/dx_j.
    """
    jacobian = np.eye(y.shape[1]) * y[:, :, None] - y[:, :, None] * y[:, None, :]
    return _einsum("si,sij->sj", dy, jacobian)


def one_hot(labels: Int64, num_classes: int) -> Float64:
    """Slide "A somewhat more realistic example": label i as the vector with t_i = 1: (B,) -> (B, C)."""
    t: Float64 = np.eye(num_classes)[labels]
    return t


def cross_entropy_forward(y: Float64, t: Float64) -> Float64:
    """Slide "Cross entropy": H(t, y) = -sum_i t_i log y_i: y, t: (B, C) -> (B,)."""
    return -_einsum("sc,sc->s", t, np.log(y))


def cross_entropy_backward(y: Float64, t: Float64) -> Float64:
    """Slide "Cross entropy", derivative of H: dz/dy = -(t_0 / y_0, ..., t_{n-1} / y_{n-1}): -> (B, C)."""
    return -t / y


def softmax_cross_entropy(x: Float64, t: Float64) -> tuple[Float64, Float64]:
    """Slide "Composition of softmax and cross entropy": z = H(t, softmax(x)), dz/dx = y - t.

    x, t: (B, C) -> loss (B,), dx (B, C). log y_i is written out as x_i - log sum_k exp(x_k).
    """
    peak = x.max(axis=1, keepdims=True)
    log_y = x - peak - np.log(np.sum(np.exp(x - peak), axis=1, keepdims=True))
    return -np.sum(t * log_y, axis=1), softmax_forward(x) - t


def squared_error(y: Float64, t: Float64) -> tuple[Float64, Float64]:
    """Slide "A simple example (linear regression)": err(y, t) = (y - t)^2, derr/dy = 2 (y - t).

    y, t: (B, O) -> loss (B,) summed over O, dy (B, O).
    """
    return np.sum((y - t) ** 2, axis=1), 2 * (y - t)


def powers_forward(x: Float64, degree: int) -> Float64:
    """Slide "A simple example (linear regression)": 1, x, x^2, ...: (B, 1) -> (B, D + 1)."""
    return x ** np.arange(degree + 1)


def powers_backward(x: Float64, dy: Float64) -> Float64:
    """Chain rule: dL/dx = sum_k dL/dy_k k x^(k-1): x (B, 1), dy (B, D + 1) -> (B, 1)."""
    k = np.arange(1, dy.shape[1])
    return _einsum("sk,k,sk->s", dy[:, 1:], k.astype(np.float64), x ** (k - 1))[:, None]


def sgd_update(
    w: Float64,
    g: Float64,
    v: Float64 | None,
    scale: float,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    gain: float = 1.0,
) -> tuple[Float64, Float64 | None]:
    """Slide "Stochastic Gradient Descent", w = w - eta dL/dw, with torch.optim.SGD's momentum and decay.

    w, g, v: (N,); v None without momentum; gain: 1 - dampening -> the new w and v.
    """
    g = gain * (scale * g + weight_decay * w)
    if v is None:
        return w - lr * g, None
    v = momentum * v + g
    return w - lr * (g + momentum * v if nesterov else v), v


def adadelta_update(
    w: Float64, g: Float64, v: Float64, u: Float64, lr: float, rho: float, eps: float, weight_decay: float
) -> tuple[Float64, Float64, Float64]:
    """Zeiler 2012, algorithm 1, as torch.optim.Adadelta: (N,) each -> the new w, v and u."""
    g = g + weight_decay * w
    v = rho * v + (1 - rho) * g**2
    d = np.sqrt(u + eps) / np.sqrt(v + eps) * g
    return w - lr * d, v, rho * u + (1 - rho) * d**2


def adam_update(
    w: Float64,
    g: Float64,
    m: Float64,
    v: Float64,
    t: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    penalty: float,
    decay: float,
) -> tuple[Float64, Float64, Float64]:
    """Kingma and Ba 2015, algorithm 1, with Loshchilov and Hutter's decay, in step t = 1, 2, ...

    w, g, m, v: (N,); penalty: added to the gradient, times w; decay: the same to the direction -> the new w, m and v.
    """
    g = g + penalty * w
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
    return w - lr * (m_hat / (np.sqrt(v_hat) + eps) + decay * w), m, v


def sum_of_squares(g: Float64) -> float:
    """The squared Euclidean norm: (N,) -> scalar."""
    return float(np.sum(g**2))
