/*
 * trouble.h
 *		Trouble: what keeps us from a broker, found out from what the library reports.
 *
 * Pure: no client, no I/O.
 */
#ifndef MILL_GATEWAY_TROUBLE_H
#define MILL_GATEWAY_TROUBLE_H

#include "gateway/policy.h"

/*
 * In order of precision: a later one replaces an earlier one, not the reverse.
 * From MILL_TROUBLE_CERTIFICATE on a retry does not help.
 */
typedef enum MillTrouble
{
	MILL_TROUBLE_NONE,
	MILL_TROUBLE_UNREACHABLE,
	MILL_TROUBLE_NOT_KAFKA,
	MILL_TROUBLE_WANTS_TLS,
	MILL_TROUBLE_NOT_TLS,
	MILL_TROUBLE_WANTS_SASL,
	MILL_TROUBLE_CERTIFICATE,
	MILL_TROUBLE_CERTIFICATE_NAME,
	MILL_TROUBLE_CERTIFICATE_TIME,
	MILL_TROUBLE_CLIENT_CERTIFICATE,
	MILL_TROUBLE_TLS,
	MILL_TROUBLE_NO_SASL,
	MILL_TROUBLE_MECHANISM,
	MILL_TROUBLE_CREDENTIALS,
	MILL_TROUBLE_RIGHTS
} MillTrouble;

/*
 * The trouble behind the library's error code and text.  certificate_error is
 * OpenSSL's last verdict on a broker's certificate, 0 if there was none.
 */
extern MillTrouble mill_trouble_find(int code, const char *text, int certificate_error);

/* Explain a trouble: SQLSTATE, message and hint; the detail stays empty. */
extern void mill_trouble_explain(MillTrouble trouble, MillError *error);

/* The same for a topic that we have no right to read. */
extern void mill_trouble_forbidden(const char *topic, MillError *error);

#endif
