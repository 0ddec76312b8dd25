"""What goes on inside a task instance: its arguments, what it remembers, its waits, how it ends."""
