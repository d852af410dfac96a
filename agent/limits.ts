/** Every bound and timeout of the agent's control side, one line each, with the reason. Names end in their unit. */

/** Settled changes kept as history; what is needed to answer a repeated order is kept beyond this. */
export const changesSettledMax = 64
/** Steps kept of one change; a swap that is undone has about twenty. */
export const stepsMax = 64
/** Receipts kept; each has some 4 kB with its certificates. */
export const receiptsMax = 256
/** Receipts in one answer. */
export const receiptsPerAnswerMax = 64
/** Services installed at once, and changes of their versions that are open at once: each of those has a second worker. */
export const servicesMax = 64
export const changesOpenMax = 8
/** First and longest pause before a commit or revert that failed is tried again. */
export const settleRetryMsMin = 500
export const settleRetryMsMax = 30_000
/** Deadlines, defaults and bounds: design.md, "Fixed on day one". */
export const bakeMsDefault = 10_000
export const bakeMsMax = 24 * 3_600_000
export const confirmTimeoutMsDefault = 60_000
export const confirmTimeoutMsMin = 1_000
export const confirmTimeoutMsMax = 7 * 24 * 3_600_000
/** Reasons end up in the journal and in the audit log. */
export const reasonCharsMax = 512

/** One message of an upload. Larger ones only cost memory. */
export const chunkBytesMax = 256 * 1024
/** A service's configuration; the largest seen (routing, 64 neighbours) is 12 kB. */
export const configBytesMax = 256 * 1024
/** Each upload may hold bundleBytesMax (16 MiB) in memory. */
export const uploadsMax = 4
/** Trust.Update at once: each holds up to 1 MiB, and they are verified one after the other. */
export const updatesMax = 4
/** An upload of 16 MiB takes 15 s at 10 Mbit/s. */
export const uploadTimeoutMs = 120_000

/** TLS handshakes take under 50 ms; a peer that needs longer is not one of ours. */
export const handshakeTimeoutMs = 5_000
/** Open connections, handshakes included. A controller and a few operators need under ten. */
export const connectionsMax = 256
export const connectionsPerAddressMax = 64
/** Calls in flight on one connection. */
export const streamsPerConnectionMax = 128
/** Largest request message (gRPC default 4 MiB is too much: 64 unfinished ones cost 364 MB). */
export const requestBytesMax = 1024 * 1024
/** HTTP/2 session memory, MiB (nghttp2 refuses what goes beyond). */
export const sessionMemoryMbMax = 4
/** A peer that does not answer a ping is gone. */
export const keepaliveMs = 20_000
export const keepaliveTimeoutMs = 10_000
/** A connection without calls is closed. */
export const connectionIdleMs = 10 * 60_000
/** Time for calls to end when the agent shuts down. */
export const drainMs = 1_000

/** Log records kept for Device.Logs, and what they may take. */
export const logRecordsMax = 4_000
export const logBytesMax = 2 * 1024 * 1024
/** Audit records kept for Device.Logs; the audit log on disk holds more. */
export const auditRecordsMax = 1_000
/** Refused handshakes that are logged one by one; strangers must not be able to push everything else out of the log. */
export const refusalsLoggedPerMinuteMax = 20
/** Events and records waiting for one slow reader of Watch or Logs. */
export const watchQueueMax = 2_048
/** Streams of Watch and Logs open at once. */
export const watchersMax = 64

/** Text of an error as the caller sees it. */
export const errorTextCharsMax = 1_024
/** Device.Reboot: longest delay. */
export const rebootDelayMsMax = 600_000
export const pingBytesMax = 1_024

/** One attempt to enrol, and the pauses between attempts. */
export const enrolTimeoutMs = 10_000
export const enrolRetryMsMin = 300
export const enrolRetryMsMax = 15_000
/** Pauses before a stored service that would not start at boot is tried again. */
export const serviceRetryMsMin = 1_000
export const serviceRetryMsMax = 60_000
/** A local agent's network card may appear after the agent. */
export const networkWaitMsMax = 30_000
/** A stored service waits this long at most for those whose APIs it calls to start; then it starts without them. */
export const dependencyWaitMs = 2_000
/** Stored services get this long to start before the API is opened without them. */
export const servicesWaitMs = 5_000
