/* state_list.h - intrusive doubly linked list of the queue's state.
 *
 * L1: ends with NULL both ways, and no element points at its list: a list may be moved by copying the struct.
 * L2: an element is on at most one list by the same link; who owns it knows which.
 * Every step is O(1). Thread: the state's. */
#ifndef MR_CLUSTER_STATE_LIST_H
#define MR_CLUSTER_STATE_LIST_H

#include <stddef.h>

struct state_link {
    struct state_link *prev, *next;
};
struct state_list {
    struct state_link *head, *tail;
    size_t count;
};

static inline void state_list_append(struct state_list *list, struct state_link *link)
{
    link->prev = list->tail;
    link->next = NULL;
    if (list->tail != NULL)
        list->tail->next = link;
    else
        list->head = link;
    list->tail = link;
    list->count++;
}

static inline void state_list_prepend(struct state_list *list, struct state_link *link)
{
    link->prev = NULL;
    link->next = list->head;
    if (list->head != NULL)
        list->head->prev = link;
    else
        list->tail = link;
    list->head = link;
    list->count++;
}

static inline void state_list_remove(struct state_list *list, struct state_link *link)
{
    if (link->prev != NULL)
        link->prev->next = link->next;
    else
        list->head = link->next;
    if (link->next != NULL)
        link->next->prev = link->prev;
    else
        list->tail = link->prev;
    link->prev = link->next = NULL;
    list->count--;
}

#endif
