/* ctl_ask.h - the commands of mailraftctl that ask a node. Returns an exit status; says on stderr what went wrong. */
#ifndef MR_CLIENT_CTL_ASK_H
#define MR_CLIENT_CTL_ASK_H

#include "client/ctl_options.h"

int ctl_ask(const struct ctl_options *options);

#endif
