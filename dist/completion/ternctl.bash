# Completion of ternctl in bash: the installed program prints it, so that it knows its own options.
eval "$(ternctl completion bash)"
