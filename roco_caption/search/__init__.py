"""From features to captions: greedy and beam search, reranking, saving and exporting."""
