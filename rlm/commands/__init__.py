"""The subcommands of `rlm`; each module is imported only when its command is called."""
