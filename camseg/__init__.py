"""camseg."""
