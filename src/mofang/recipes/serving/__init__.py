"""A small service for causal language models in Hugging Face format, with in-flight batching by transformers."""
