"""`inhouse doctor`: what may be wrong with this machine, its settings and its state, each thing with its fix."""
