typedef int mailraft_placeholder;
