"""GPT-2, tiny, in the Hugging Face trainer."""

import torch
from killing import killed, main, note
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments, set_seed

from mofang.recovery.adapters.huggingface import attach


def train(folder, losses, tiers, steps, kill_at):
    set_seed(7)
    config = GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    rows = [{"input_ids": (ids := torch.randint(0, 64, (16,))), "labels": ids} for _ in range(40)]

    class Notes(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            if "loss" in logs:
                note(losses, state.global_step, logs["loss"])

        def on_step_begin(self, args, state, control, **_):
            kept = [each.checkpointer for each in trainer.callback_handler.callbacks if hasattr(each, "checkpointer")]
            killed(state.global_step, kill_at, kept[0])

    arguments = TrainingArguments(
        output_dir=str(folder / "out"), max_steps=steps, per_device_train_batch_size=2, gradient_accumulation_steps=2,
        logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True, lr_scheduler_type="cosine",
        learning_rate=1e-3, seed=7,
    )  # fmt: skip
    trainer = Trainer(model=GPT2LMHeadModel(config), args=arguments, train_dataset=rows, callbacks=[Notes()])
    attach(trainer, tiers)
    trainer.train()


if __name__ == "__main__":
    main(train)
