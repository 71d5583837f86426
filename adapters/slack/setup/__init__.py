"""The app manifest, token scopes and the checks of `inhouse doctor`."""
