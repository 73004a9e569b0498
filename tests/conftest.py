"""What holds for every test."""

from hypothesis import HealthCheck, settings

# Four tests at a time on two cores, and others' work beside them: an example may take its time.
# What hangs is ended by pytest-timeout.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")
