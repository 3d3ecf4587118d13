"""The LightningModule, the LightningDataModule, and their numbers."""
