"""`python -m launch doctor`: measures what a job would run on, and says what is wrong with it and how to mend it.

`command` makes the checks. Each other file is a family of them: functions from what was measured (by a program on
every host, `launch.doctor.facts`, and one on every rank, `ddp.comm.diagnose`) to findings.
"""
