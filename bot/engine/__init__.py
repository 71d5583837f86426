"""From a prompt to text: the engine's process, seen from both of its ends."""
