"""What holds for every test."""

import signal

from hypothesis import HealthCheck, settings

# Four tests at a time on two cores, and others' work beside them: an example may take its time.
# What hangs is ended by pytest-timeout.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")

# Started in the background by a shell, pytest and all that it starts would ignore Ctrl-C, of which
# some tests are about.
signal.signal(signal.SIGINT, signal.default_int_handler)
