/*
 * trouble.h
 *		What keeps us from a broker, told apart from what the library says.
 *
 * Pure: no client, no I/O.
 */
#ifndef MILL_GATEWAY_TROUBLE_H
#define MILL_GATEWAY_TROUBLE_H

#include "gateway/policy.h"

/*
 * A later one says more than an earlier one, and is not replaced by it.  From
 * MILL_TROUBLE_CERTIFICATE on, asking again does not help.
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
 * From the library's error code and text; certificate_error is OpenSSL's last
 * verdict on a broker's certificate, 0 if there was none.
 */
extern MillTrouble mill_trouble_find(int code, const char *text, int certificate_error);

/* SQLSTATE, message and hint of it; the detail stays empty. */
extern void mill_trouble_explain(MillTrouble trouble, MillError *error);

/* The same for a topic that we may not read. */
extern void mill_trouble_forbidden(const char *topic, MillError *error);

#endif
