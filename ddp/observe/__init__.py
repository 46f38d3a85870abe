"""What a run tells: events, timers, progress, provenance."""
