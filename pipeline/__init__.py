"""The stages of smile-pipe (render, train, evaluate) and what they need: layouts, meshes, renderers, prompts, jobs."""
