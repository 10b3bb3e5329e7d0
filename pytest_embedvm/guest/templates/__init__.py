"""Guests that were prepared once: what they are known by, where they are kept, and how they are made."""
