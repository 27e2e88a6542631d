"""What is decided and recorded: the study, who proposes, who stops, when it ends. Knows no Ray."""
