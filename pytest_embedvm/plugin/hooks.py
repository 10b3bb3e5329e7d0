"""What pytest calls."""
