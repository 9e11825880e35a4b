"""Sentence embeddings end to end: MiniLM's weights become an ONNX file, which is registered, promoted and asked."""
