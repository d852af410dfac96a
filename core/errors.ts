/**
 * The one table of errors. Code, gRPC status, docs/errors.md and tests all read it. Codes are never reused.
 * Statuses are names, so that this file needs no gRPC.
 */

export type GrpcStatusName =
  | 'INVALID_ARGUMENT'
  | 'PERMISSION_DENIED'
  | 'DATA_LOSS'
  | 'FAILED_PRECONDITION'
  | 'ABORTED'
  | 'NOT_FOUND'
  | 'ALREADY_EXISTS'
  | 'RESOURCE_EXHAUSTED'
  | 'UNIMPLEMENTED'
  | 'DEADLINE_EXCEEDED'
  | 'UNAVAILABLE'
  | 'INTERNAL'
  | 'UNKNOWN'

export interface ErrorRow {
  readonly status: GrpcStatusName
  /** What the caller should do. */
  readonly caller: string
  /** When it is raised. */
  readonly when: string
}

// biome-ignore format: a table
const table = {
  ARGUMENT_INVALID:      { status: 'INVALID_ARGUMENT',    caller: 'fix and resend',                    when: 'a request field is missing, out of range or contradicts another' },
  BUNDLE_MALFORMED:      { status: 'INVALID_ARGUMENT',    caller: 'rebuild the bundle',                when: 'wrong magic or length, a section over its limit, or a manifest that breaks its schema' },
  BUNDLE_UNTRUSTED:      { status: 'PERMISSION_DENIED',   caller: 'stop, alert',                       when: 'no trusted key signed these manifest bytes' },
  BUNDLE_CORRUPT:        { status: 'DATA_LOSS',           caller: 'resend once',                       when: 'the payload does not match the digest in the signed manifest' },
  BUNDLE_ROLLBACK:       { status: 'FAILED_PRECONDITION', caller: 'sign a newer version',              when: 'the version is below the signed floor' },
  BUNDLE_DOWNGRADE:      { status: 'FAILED_PRECONDITION', caller: 'order it with allow_downgrade',     when: 'the version is older than what runs, though at or above the floor' },
  BUNDLE_NOT_FOUND:      { status: 'NOT_FOUND',           caller: 'put the bundle into the registry',  when: 'the registry has no such service and version' },
  BUNDLE_EXISTS:         { status: 'ALREADY_EXISTS',      caller: 'raise the version',                 when: 'the registry holds other bytes under this name and version' },
  FLOORS_UNTRUSTED:      { status: 'PERMISSION_DENIED',   caller: 'stop, alert',                       when: 'signed floors that no trusted key signed, or older than those in force' },
  TRUST_MALFORMED:       { status: 'INVALID_ARGUMENT',    caller: 'publish the metadata again',        when: 'TUF metadata over a limit in size, depth or count, or of a shape that is not ours' },
  TRUST_THRESHOLD:       { status: 'PERMISSION_DENIED',   caller: 'have more of its keys sign',        when: 'fewer keys than a role demands signed its TUF metadata' },
  TRUST_ROLLBACK:        { status: 'FAILED_PRECONDITION', caller: 'stop, alert',                       when: 'TUF metadata older than what this device, or the witness, has seen' },
  TRUST_EXPIRED:         { status: 'FAILED_PRECONDITION', caller: 'publish fresh metadata',            when: 'TUF metadata that is expired by trusted time' },
  TRUST_MISMATCH:        { status: 'DATA_LOSS',           caller: 'resend once, then alert',           when: 'a TUF document that is another one than the signed metadata above it names' },
  TRUST_UNAVAILABLE:     { status: 'FAILED_PRECONDITION', caller: 'send what is named, then repeat',   when: 'a TUF document, or the statement of the witness, that a verdict needs is not there' },
  TRUST_UNLISTED:        { status: 'PERMISSION_DENIED',   caller: 'have the key of its service sign it', when: 'no role that may sign for this path vouches for it' },
  WITNESS_UNTRUSTED:     { status: 'PERMISSION_DENIED',   caller: 'stop, alert',                       when: 'a statement that no trusted witness signed, or not for this question' },
  POLICY_DENIED:         { status: 'PERMISSION_DENIED',   caller: 'have the policy changed: offbox trust policy', when: 'the signed policy of the device does not let this bundle run, or there is none; the message names the rule' },
  TRUST_KEY_LOCKED:      { status: 'PERMISSION_DENIED',   caller: 'give the right passphrase',         when: 'no passphrase given opens a private key of the trust repository' },
  METHOD_CONFLICT:       { status: 'FAILED_PRECONDITION', caller: 'remove the other service first',    when: 'another service, or the agent itself, already serves a method that the manifest declares' },
  METHOD_NOT_FOUND:      { status: 'UNIMPLEMENTED',       caller: 're-read the inventory',             when: 'nothing on this device serves the method' },
  CAPABILITY_DENIED:     { status: 'PERMISSION_DENIED',   caller: 'ask for less',                      when: 'a manifest asks for, or a service uses, a capability it is not granted' },
  SERVICE_NOT_FOUND:     { status: 'NOT_FOUND',           caller: 're-read the inventory',             when: 'no such service on this device' },
  SERVICE_EXISTS:        { status: 'ALREADY_EXISTS',      caller: 'use Upgrade',                       when: 'Install of a service that runs in another version' },
  SERVICE_DOWN:          { status: 'FAILED_PRECONDITION', caller: 'look at the history of the service', when: 'the service that declares the method does not run (backoff, failed, stopped)' },
  SERVICE_CRASHED:       { status: 'ABORTED',             caller: 'retry if the call may be repeated',  when: 'the worker ended while it had this call' },
  SERVICE_STATUS:        { status: 'UNKNOWN',             caller: 'see the status itself and its details', when: 'a service answered with a gRPC status of its own, as a standard API demands; that status is sent in place of this one' },
  SWAP_IN_PROGRESS:      { status: 'ABORTED',             caller: 're-read, decide again',             when: 'another change holds the slot, or a swap ended this stream' },
  SWAP_ROLLED_BACK:      { status: 'FAILED_PRECONDITION', caller: 'fix the bundle',                    when: 'the new version did not start, prove itself, take over in time or stay healthy; the version before serves' },
  SNAPSHOT_CORRUPT:      { status: 'DATA_LOSS',           caller: 'repeat the upgrade',                when: 'state handed over between two versions does not match its checksum; the version that gave it serves on' },
  PREFLIGHT_REFUSED:     { status: 'RESOURCE_EXHAUSTED',  caller: 'free what is named, then repeat',   when: 'memory, disk or slots do not suffice for a swap; nothing was touched' },
  DEPENDENCY_UNSATISFIED: { status: 'FAILED_PRECONDITION', caller: 'install or upgrade what is named first', when: 'a manifest requires a version of the kernel or of an API that is not here, or others require the version that would go' },
  TIER_UNAVAILABLE:      { status: 'FAILED_PRECONDITION', caller: 'use a device that can confine it',  when: 'the service needs the process tier, which this device cannot provide' },
  CIRCUIT_OPEN:          { status: 'FAILED_PRECONDITION', caller: 'retry after the stated time',       when: 'a service calls another that has failed too often of late' },
  CALL_DEPTH_EXCEEDED:   { status: 'FAILED_PRECONDITION', caller: 'break the circle of calls',          when: 'services call one another more levels deep than the agent carries, mostly in a circle' },
  MEMORY_EXCEEDED:       { status: 'RESOURCE_EXHAUSTED',  caller: 'raise limits.memoryMbMax, or fix the leak', when: 'a service used more memory than its manifest allows; it was ended' },
  CPU_EXCEEDED:          { status: 'RESOURCE_EXHAUSTED',  caller: 'raise limits.cpuPercentMax, or fix the service', when: 'a service used more CPU for longer than its manifest allows; it was ended' },
  RATE_EXCEEDED:         { status: 'RESOURCE_EXHAUSTED',  caller: 'slow down',                         when: 'clients send a service more messages a second than its manifest allows' },
  STREAMS_EXCEEDED:      { status: 'RESOURCE_EXHAUSTED',  caller: 'close a stream first',              when: 'a service has as many streams open as its manifest allows' },
  LOGS_EXCEEDED:         { status: 'RESOURCE_EXHAUSTED',  caller: 'log less',                          when: 'a service logs more lines a second than its manifest allows; the lines are counted and dropped' },
  RECEIPT_NOT_FOUND:     { status: 'NOT_FOUND',           caller: 're-read the receipts',              when: 'no receipt of this change is kept' },
  CHANGE_NOT_FOUND:      { status: 'NOT_FOUND',           caller: 're-read the changes',               when: 'no change with this id is kept' },
  CONFIRM_NOT_FRESH:     { status: 'FAILED_PRECONDITION', caller: 'open a new connection, then confirm', when: 'Confirm came over a connection older than the change' },
  STATE_REFUSED:         { status: 'FAILED_PRECONDITION', caller: 'wait for the named state',          when: 'the state machine refuses this command in its present state' },
  ROLE_DENIED:           { status: 'PERMISSION_DENIED',   caller: 'get the role',                      when: 'the certificate is fine, its role lacks the method' },
  LIMIT_REACHED:         { status: 'RESOURCE_EXHAUSTED',  caller: 'slow down or send less',            when: 'a bound in limits.ts' },
  STORE_FULL:            { status: 'RESOURCE_EXHAUSTED',  caller: 'free space on the device',          when: 'the disk is full; nothing was changed' },
  AUDIT_FULL:            { status: 'RESOURCE_EXHAUSTED',  caller: 'let the collector reach the device', when: 'the audit log is full of records that nobody has acknowledged; nothing was changed' },
  AUDIT_NOT_FOUND:       { status: 'NOT_FOUND',           caller: 'wait for the collector',            when: 'nothing has been collected yet of the audit log of a device' },
  AUDIT_BROKEN:          { status: 'DATA_LOSS',           caller: 'stop, alert',                       when: 'an audit record or statement that does not follow the one before it, or cannot be read' },
  STORE_CORRUPT:         { status: 'DATA_LOSS',           caller: 'let the controller supply it again', when: 'a stored file fails its check; it is set aside, never used' },
  CONFIG_INVALID:        { status: 'INVALID_ARGUMENT',    caller: 'fix the named field',               when: 'a configuration breaks a rule; nothing was applied' },
  DRIVER_FAILED:         { status: 'FAILED_PRECONDITION', caller: 'read the message, look at the device log', when: 'a part of the machine (BIRD, a kernel interface) refused or is not there' },
  CSR_INVALID:           { status: 'INVALID_ARGUMENT',    caller: 'make a new request',                when: 'a certificate request cannot be read, is not ECDSA P-256 or its signature is wrong' },
  CERTIFICATE_INVALID:   { status: 'INVALID_ARGUMENT',    caller: 'sign the request again',            when: 'a certificate does not match the key, the names or the fleet CA' },
  DEADLINE_PASSED:       { status: 'DEADLINE_EXCEEDED',   caller: 'retry with more time',              when: 'the call was not done within its deadline' },
  DEVICE_NOT_REGISTERED: { status: 'PERMISSION_DENIED',   caller: 'register it: offbox device add',    when: 'enrolment of a serial and MAC that nobody registered' },
  DEVICE_NOT_FOUND:      { status: 'NOT_FOUND',           caller: 'see offbox device list',            when: 'no device with this id is registered' },
  DEVICE_EXISTS:         { status: 'ALREADY_EXISTS',      caller: 'use another id, serial or MAC',     when: 'the id, serial or MAC belongs to another registration' },
  DEVICE_UNREACHABLE:    { status: 'FAILED_PRECONDITION', caller: 'check power and network, then repeat', when: 'the device never enrolled or does not answer' },
  ROLLOUT_NOT_FOUND:     { status: 'NOT_FOUND',           caller: 'see offbox rollout list',           when: 'no such rollout' },
  ROLLOUT_ACTIVE:        { status: 'FAILED_PRECONDITION', caller: 'wait for it or abort it',           when: 'another rollout of the same service is running' },
  HOME_INVALID:          { status: 'FAILED_PRECONDITION', caller: 'run offbox init, or name the right $OFFBOX_HOME', when: 'the home directory is missing, not ours or has wrong permissions' },
  HOME_IN_USE:           { status: 'FAILED_PRECONDITION', caller: 'stop the other one first',          when: 'another controller or lab uses this home directory' },
  PORT_TAKEN:            { status: 'FAILED_PRECONDITION', caller: 'stop the named program or set another port', when: 'a port to listen on is in use or not permitted' },
  SETUP_MISSING:         { status: 'FAILED_PRECONDITION', caller: 'install what is named',             when: 'a program, privilege or device that the command needs is not there' },
  IMAGE_INVALID:         { status: 'FAILED_PRECONDITION', caller: 'build the image again: offbox image build', when: 'an image that cannot be read, does not match its digests, or holds what no image may hold' },
  CONTROLLER_UNREACHABLE: { status: 'FAILED_PRECONDITION', caller: 'start it: offbox controller serve', when: 'nothing answers at the controller address' },
  WITNESS_UNREACHABLE:   { status: 'FAILED_PRECONDITION', caller: 'start it: offbox witness serve; check controller.witness', when: 'a device waits for the witness, and nothing answers at its address or none is set' },
  INTERNAL:              { status: 'INTERNAL',            caller: 'report the id',                     when: 'our bug; details are in the log under this id, only the id goes out' },
} as const satisfies Record<string, ErrorRow>

export type ErrorCode = keyof typeof table
export const ERRORS: Readonly<Record<ErrorCode, ErrorRow>> = table

/** Trailer that carries the code of a failed call. */
export const ERROR_TRAILER = 'offbox-error'

/** The only error class that crosses a boundary. Handlers throw it and never map it to a status themselves. */
export class OffboxError extends Error {
  readonly code: ErrorCode
  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options)
    this.name = 'OffboxError'
    this.code = code
  }
}

export function isErrorCode(text: unknown): text is ErrorCode {
  return typeof text === 'string' && Object.hasOwn(ERRORS, text)
}

/** The error's own code, STORE_FULL for ENOSPC and EDQUOT, INTERNAL for whatever else was thrown. */
export function codeOf(error: unknown): ErrorCode {
  if (error instanceof OffboxError) return error.code
  const errno = (error as { code?: unknown } | null)?.code
  return errno === 'ENOSPC' || errno === 'EDQUOT' ? 'STORE_FULL' : 'INTERNAL'
}

/** The text of whatever was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** The code that a text begins with, as in "MEMORY_EXCEEDED: 200 MiB in use". */
export function codeIn(text: string): ErrorCode | undefined {
  const code = text.split(':', 1)[0]
  return isErrorCode(code) ? code : undefined
}
