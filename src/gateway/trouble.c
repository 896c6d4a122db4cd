/*
 * trouble.c
 *		Trouble: finds out what keeps us from a broker.
 *
 * The library has one code for credentials, one for TLS, and just "transport"
 * for every connection that the other side closed; the details are only in its
 * texts.  The texts here are those of librdkafka 2.0 to 2.8 and OpenSSL 3; for
 * an unknown text the general meaning of the code is used.
 */
#include "gateway/trouble.h"

#include <librdkafka/rdkafka.h>
#include <openssl/x509_vfy.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The first entry whose text occurs decides. */
static const struct
{
	const char *text;
	MillTrouble trouble;
} texts[] = {
	{"Disconnected while requesting ApiVersion", MILL_TROUBLE_WANTS_TLS},
	{"broker might require SASL", MILL_TROUBLE_WANTS_SASL},
	{"Request not valid in current SASL state", MILL_TROUBLE_NO_SASL},
	{"broker's supported mechanisms", MILL_TROUBLE_MECHANISM},
	{"Unsupported SASL mechanism", MILL_TROUBLE_MECHANISM},
	{"connecting to a PLAINTEXT broker listener", MILL_TROUBLE_NOT_TLS},
	{"wrong version number", MILL_TROUBLE_NOT_TLS},
	{"unexpected eof while reading (after", MILL_TROUBLE_NOT_TLS},
	{"certificate verify failed", MILL_TROUBLE_CERTIFICATE},
	{"broker certificate", MILL_TROUBLE_CERTIFICATE},
	{"client SSL authentication might be required", MILL_TROUBLE_CLIENT_CERTIFICATE},
	{"alert bad certificate", MILL_TROUBLE_CLIENT_CERTIFICATE},
	{"alert certificate required", MILL_TROUBLE_CLIENT_CERTIFICATE},
	{"alert unknown ca", MILL_TROUBLE_CLIENT_CERTIFICATE},
};

#define PROTOCOL_VIOLATION "08P01"
#define REJECTED "08004"
#define CREDENTIALS "28000"

static const struct
{
	const char *sqlstate;
	const char *message;
	const char *hint;
} explanations[] = {
	[MILL_TROUBLE_NONE] = {"08000", "the Kafka request failed", NULL},
	[MILL_TROUBLE_UNREACHABLE] = {"08001", "could not reach the Kafka brokers", NULL},
	[MILL_TROUBLE_NOT_KAFKA] =
		{PROTOCOL_VIOLATION, "what answered does not speak Kafka's protocol",
		 "Check \"bootstrap.servers\" and \"security.protocol\" on the server."},
	[MILL_TROUBLE_WANTS_TLS] =
		{PROTOCOL_VIOLATION, "Kafka's listener closed the connection; it probably wants TLS",
		 "Set \"security.protocol\" on the server to ssl or sasl_ssl, or use the port of a listener without TLS."},
	[MILL_TROUBLE_NOT_TLS] =
		{PROTOCOL_VIOLATION, "Kafka's listener does not speak TLS",
		 "Set \"security.protocol\" on the server to plaintext or sasl_plaintext, or use the port of a listener with TLS."},
	[MILL_TROUBLE_WANTS_SASL] =
		{PROTOCOL_VIOLATION,
		 "Kafka's listener closed the connection; it probably wants authentication by SASL",
		 "Set \"security.protocol\" on the server to sasl_ssl or sasl_plaintext, and \"sasl.mechanism\"; the credentials go into the user mapping."},
	[MILL_TROUBLE_NO_SASL] =
		{PROTOCOL_VIOLATION, "Kafka's listener takes no authentication by SASL",
		 "Set \"security.protocol\" on the server to plaintext or ssl, or use the port of a listener with SASL."},
	[MILL_TROUBLE_CERTIFICATE] =
		{REJECTED, "the Kafka broker's certificate could not be verified",
		 "Set \"ssl.ca.pem\" on the server to the certificate of the authority that signed the broker's."},
	[MILL_TROUBLE_CERTIFICATE_NAME] =
		{REJECTED, "the Kafka broker's certificate is for another name",
		 "The hosts in \"bootstrap.servers\", and those that the brokers advertise, must be among the certificate's names. "
		 "A superuser may set \"ssl.endpoint.identification.algorithm\" on the server to none."},
	[MILL_TROUBLE_CERTIFICATE_TIME] =
		{REJECTED, "the Kafka broker's certificate has expired, or is not valid yet",
		 "Renew the broker's certificate, or put the clock right."},
	[MILL_TROUBLE_CLIENT_CERTIFICATE] =
		{REJECTED, "Kafka refused the TLS connection",
		 "The broker may want a certificate: set \"ssl.certificate.pem\" and \"ssl.key.pem\" in the user mapping."},
	[MILL_TROUBLE_TLS] = {REJECTED, "could not establish a TLS connection with Kafka",
						  "Check \"security.protocol\" and the options that begin with \"ssl.\"."},
	[MILL_TROUBLE_MECHANISM] = {CREDENTIALS, "Kafka does not accept the SASL mechanism",
								"Set \"sasl.mechanism\" to one that Kafka's listener takes."},
	[MILL_TROUBLE_CREDENTIALS] =
		{CREDENTIALS, "could not authenticate with Kafka",
		 "Check \"sasl.username\" and \"sasl.password\" in the user mapping, and \"sasl.mechanism\"."},
	[MILL_TROUBLE_RIGHTS] =
		{"42501", "permission denied by Kafka",
		 "Kafka's access lists must allow the user mapping's user what was asked for."},
};

/* What the code alone means. */
static MillTrouble
trouble_by_code(int code)
{
	switch (code)
	{
		case RD_KAFKA_RESP_ERR__AUTHENTICATION:
		case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED:
		case RD_KAFKA_RESP_ERR_ILLEGAL_SASL_STATE:
		case RD_KAFKA_RESP_ERR_SECURITY_DISABLED:
			return MILL_TROUBLE_CREDENTIALS;
		case RD_KAFKA_RESP_ERR_UNSUPPORTED_SASL_MECHANISM:
			return MILL_TROUBLE_MECHANISM;
		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
			return MILL_TROUBLE_RIGHTS;
		case RD_KAFKA_RESP_ERR__SSL:
			return MILL_TROUBLE_TLS;
		case RD_KAFKA_RESP_ERR__TRANSPORT:
		case RD_KAFKA_RESP_ERR__RESOLVE:
		case RD_KAFKA_RESP_ERR__TIMED_OUT:
		case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
		case RD_KAFKA_RESP_ERR__BAD_MSG:
			return MILL_TROUBLE_UNREACHABLE;
		default:
			return MILL_TROUBLE_NONE;
	}
}

/* An impossible response size is the first word of a TLS alert or of another protocol. */
static MillTrouble
trouble_by_size(const char *text)
{
	const char *found = strstr(text, "Invalid response size ");

	if (found == NULL)
		return MILL_TROUBLE_NONE;
	return strtol(found + strlen("Invalid response size "), NULL, 10) >> 24 == 0x15
			   ? MILL_TROUBLE_WANTS_TLS
			   : MILL_TROUBLE_NOT_KAFKA;
}

MillTrouble
mill_trouble_find(int code, const char *text, int certificate_error)
{
	MillTrouble trouble = trouble_by_size(text);

	for (size_t i = 0; trouble == MILL_TROUBLE_NONE && i < sizeof(texts) / sizeof(texts[0]); i++)
	{
		if (strstr(text, texts[i].text) != NULL)
			trouble = texts[i].trouble;
	}
	if (trouble == MILL_TROUBLE_NONE)
		return trouble_by_code(code);
	if (trouble != MILL_TROUBLE_CERTIFICATE)
		return trouble;
	switch (certificate_error)
	{
		case X509_V_ERR_HOSTNAME_MISMATCH:
		case X509_V_ERR_IP_ADDRESS_MISMATCH:
			return MILL_TROUBLE_CERTIFICATE_NAME;
		case X509_V_ERR_CERT_HAS_EXPIRED:
		case X509_V_ERR_CERT_NOT_YET_VALID:
			return MILL_TROUBLE_CERTIFICATE_TIME;
		default:
			return trouble;
	}
}

void
mill_trouble_explain(MillTrouble trouble, MillError *error)
{
	mill_error_set(error, explanations[trouble].sqlstate, explanations[trouble].message, NULL,
				   explanations[trouble].hint);
}

void
mill_trouble_forbidden(const char *topic, MillError *error)
{
	char message[320];

	snprintf(message, sizeof(message), "permission denied for topic \"%.249s\"", topic);
	mill_error_set(error, "42501", message, NULL,
				   "Kafka's access lists must allow the user mapping's user to read the topic.");
}
