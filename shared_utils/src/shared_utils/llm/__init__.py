"""OpenAI-compatible model servers: embeddings, their refusals, and what is cleaned from a model's text."""
