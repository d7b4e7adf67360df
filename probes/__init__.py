"""Tools that look inside any hooked model: a toy or a real transformer, by the same calls."""
