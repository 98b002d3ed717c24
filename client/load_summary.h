/* load_summary.h - what a run says while it goes and at its end. Thread: the run's loop. */
#ifndef MR_CLIENT_LOAD_SUMMARY_H
#define MR_CLIENT_LOAD_SUMMARY_H

#include "client/load_run.h"
#include "client/report.h"

/* A line on the terminal (standard error) about twice a second; nothing when that is no terminal. */
void load_progress(struct load_run *run, uint64_t now_ns);
/* Takes the line away. */
void load_progress_end(struct load_run *run);
void load_summary(const struct load_run *run, struct report *report);

#endif
