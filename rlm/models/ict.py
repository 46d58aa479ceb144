"""The inverse cloze task (ORQA, 1906.00300, section 4): warms up a retriever without questions."""

from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from rlm.models.config import IctConfig
from rlm.models.optimizer import configure
from rlm.retrieval.encoder import DualEncoder


class InverseCloze(pl.LightningModule):
    """Cross-entropy of a sentence finding its own passage among all passages of the global batch."""

    def __init__(self, retriever: DualEncoder, config: IctConfig) -> None:
        super().__init__()
        self.retriever, self.config = retriever, config

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        queries = self.retriever.embed_query(batch["queries"]["ids"], batch["queries"]["mask"])
        passages = self.retriever.embed_passage(**batch["passages"])
        if self.trainer.world_size > 1:
            # [world * batch, dim], with gradient to every rank's passages
            gathered = self.all_gather(passages, sync_grads=True)
            assert isinstance(gathered, Tensor)
            passages = gathered.flatten(0, 1)
        # [batch, world * batch]
        scores = queries.float() @ passages.float().T
        own = torch.arange(len(queries), device=scores.device) + self.global_rank * len(queries)
        loss = F.cross_entropy(scores, own)
        accuracy = (scores.argmax(dim=1) == own).float().mean()
        self.log_dict({"loss": loss, "in_batch_recall@1": accuracy}, sync_dist=True, batch_size=len(own))
        return loss

    def configure_optimizers(self) -> Any:
        return configure(self, self.config.training)
