"""The slash command, buttons, shortcuts and ephemeral replies."""
