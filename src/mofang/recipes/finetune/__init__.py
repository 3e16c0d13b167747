"""Fine-tuning of a causal language model in Hugging Face format, in full or by low-rank adapters.

``python -m mofang.recipes.finetune --config recipe.json``. The model is that of ``mofang.recipes.gpt``, with the
weights of a folder; the result is a folder in the same format, or one with adapters in the format of PEFT.
"""
