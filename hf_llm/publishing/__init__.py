"""What leaves a run: model card, push to the Hub, reports."""
