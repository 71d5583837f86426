"""The checks of `inhouse doctor`: machine, settings, models, state and network; each problem comes with a fix."""
