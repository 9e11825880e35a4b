"""The worker that trains elsewhere: it speaks to the trainer alone, and runs recipes as the trainer itself does."""
