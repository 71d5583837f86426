"""The Socket Mode connection and the listeners of the Bolt app."""
