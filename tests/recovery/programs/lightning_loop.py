"""A small network in the Lightning trainer."""

import random

import torch
from killing import killed, main, note
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torchdata.stateful_dataloader import StatefulDataLoader

from mofang.recovery.adapters.lightning import MofangCallback


def train(folder, losses, tiers, steps, kill_at):
    seed_everything(7, verbose=False)

    class Model(LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Sequential(
                torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(32, 8)
            )

        def training_step(self, batch, index):
            killed(self.trainer.global_step, kill_at, callback._checkpointer)
            loss = (self.net(batch) - batch).square().mean() + random.random() * 1e-3
            note(losses, self.trainer.global_step + 1, loss.item())
            return loss

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    loader = StatefulDataLoader(torch.randn(40, 8), batch_size=4, shuffle=True)
    callback = MofangCallback(tiers)
    trainer = Trainer(
        max_steps=steps, callbacks=[callback], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", default_root_dir=str(folder),
    )  # fmt: skip
    trainer.fit(Model(), loader)


if __name__ == "__main__":
    main(train)
