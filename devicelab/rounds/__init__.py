"""Rounds: which phones and clients take part, what each is asked, what comes back, and what is kept of it."""
