/* ctl_demo.h - `mailraftctl demo`: a cluster on loopback that loses its leader under load, and the count of what
 * arrived. Exit status: 0 all was accepted, nothing lost or altered; 1 otherwise. */
#ifndef MR_CLIENT_CTL_DEMO_H
#define MR_CLIENT_CTL_DEMO_H

#include "client/ctl_options.h"

int ctl_demo(const struct ctl_demo_options *options, bool json);

#endif
