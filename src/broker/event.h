/*
 * event.h
 *		What a gateway reports about its connection.
 */
#ifndef MILL_BROKER_EVENT_H
#define MILL_BROKER_EVENT_H

#include "gateway/protocol.h"

/* An EVENT frame, with texts for this database; in the current memory context. */
typedef struct MillGatewayEvent
{
	MillEventKind kind;
	int partition;	/* -1: not about one */
	int sqlerrcode; /* 0: none */
	char *message;
	char *detail; /* NULL: none */
	char *hint;	  /* NULL: none */
} MillGatewayEvent;

extern MillGatewayEvent mill_gateway_event(const MillFrame *frame);

/* Raise the event as an error, with this SQLSTATE if it has none. */
extern _Noreturn void mill_gateway_raise(const MillGatewayEvent *event, int sqlerrcode);

#endif
