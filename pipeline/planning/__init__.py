"""What a render has to do: what is there, what changed since, and the plan that follows."""
