/** Every bound of the audit log, with its reason. */

/** Records of reads are written together, half a queue at the latest; a crash loses at most this much of them. */
export const auditFlushMs = 1_000
/** Records waiting to be written; beyond it reads are counted, not kept, and intents are refused. */
export const auditQueueMax = 2_048
/** Records are chained together in groups of this size, so that no single turn spends more than a fraction of a millisecond on it. */
export const chainGroupMax = 64
/** A segment is sealed when it has this much. */
export const segmentBytes = 256 * 1024
/** Acknowledged segments are kept up to this, for whoever reads the log on the device. */
export const keptBytes = 2 * 1024 * 1024
/** What may wait for its acknowledgement. Reads stop being recorded one by one first, so that they cannot stand in the way of changes; */
export const readsBytesMax = 4 * 1024 * 1024
/** then changes are refused; */
export const changesBytesMax = 7 * 1024 * 1024
/** reverts, and what becomes of what was let through, have the rest. Nothing is written beyond it: it is counted, and said. */
export const auditBytesMax = 8 * 1024 * 1024
/** The first denial of a caller is recorded at once, the next of its kind are counted and recorded together after this. */
export const repeatsMs = 10_000
/** Kinds that are counted at once; what goes beyond is counted together. */
export const repeatedKindsMax = 256
/** Characters of a method that nobody serves, or of any other fact, which a caller may make as long as it likes. */
export const methodCharsMax = 256
/** Bytes of records in one message of Tail. */
export const batchBytes = 64 * 1024
/** Readers of Tail and RecordSubscribe at once. */
export const auditReadersMax = 16
