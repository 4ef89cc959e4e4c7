# Completion of ternctl in fish: the installed program prints it, so that it knows its own options.
ternctl completion fish | source
