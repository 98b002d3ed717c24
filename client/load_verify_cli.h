/* load_verify_cli.h - "mailraft-load verify". */
#ifndef MR_CLIENT_LOAD_VERIFY_CLI_H
#define MR_CLIENT_LOAD_VERIFY_CLI_H

/* argv[0] is "verify". Exit status: 0 nothing lost, altered, invented; 1 something; 2 usage or an unreadable file. */
int load_verify_main(int argc, char **argv);

#endif
