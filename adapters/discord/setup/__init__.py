"""The invite link and the checks of `inhouse doctor`."""
