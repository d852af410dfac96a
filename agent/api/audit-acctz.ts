/** gnsi.acctz.v1: the audit log as accounting records, for collectors that know gNSI and not us. */
import { type AuditRecord, readRecord } from '../../core/audit/record.ts'
import { OffboxError } from '../../core/errors.ts'
import { AcctzMethods, AcctzStreamMethods, type RecordRequest, type RecordResponseInit } from '../../proto/gen/acctz.ts'
import { batchesOf } from '../audit/batches.ts'
import type { AuditLog } from '../audit/log.ts'
import type { Serve } from './serve.ts'

export interface AcctzParts {
  readonly audit: AuditLog
  /** Of the port that calls come in at. */
  readonly address: string
  readonly port: number
}

export function serveAcctz(serve: Serve, parts: AcctzParts): void {
  serve.serverStream(AcctzStreamMethods.RecordSubscribe, (request, { signal }) => recordsAfter(parts, request, signal))
  serve.bidi(AcctzMethods.RecordSubscribe, async function* (requests, { signal }) {
    const iterator = requests[Symbol.asyncIterator]()
    const first = await iterator.next()
    if (first.done) throw new OffboxError('ARGUMENT_INVALID', 'the first request says from when on; none came')
    // Later requests only show that the collector is there, and keepalive on the connection does so as well.
    void drain(iterator)
    yield* recordsAfter(parts, first.value, signal)
  })
}

async function drain(iterator: AsyncIterator<unknown>): Promise<void> {
  try {
    while (!(await iterator.next()).done);
  } catch {
    // A broken stream ends it as well; `signal` says so too.
  }
}

async function* recordsAfter(parts: AcctzParts, { timestamp }: RecordRequest, signal: AbortSignal): AsyncGenerator<RecordResponseInit> {
  const { audit } = parts
  const afterMs = timestamp ? timestamp.seconds * 1000 + timestamp.nanos / 1e6 : 0
  // Zero asks for whatever there is, and nothing of that is missing.
  let truncated = afterMs > 0 && audit.status.oldest > 1
  for await (const { lines } of batchesOf(audit, { from: 1, follow: true, signal })) {
    for (const line of lines) {
      const record = readRecord(line)
      // Something as old as what was asked for is still here.
      if (record.atMs <= afterMs) truncated = false
      if (record.atMs <= afterMs || !isAccounted(record)) continue
      yield { ...accountingOf(record, parts), historyIstruncated: truncated }
      truncated = false
    }
  }
}

/** Calls, with what came of them: an intent is followed by its outcome, and notes are no requests. */
function isAccounted({ decision, method }: AuditRecord): boolean {
  return (decision === 'allow' || decision === 'deny') && method.startsWith('/')
}

const SERVICE_TYPES: Readonly<Record<string, number>> = { gnmi: 1, gnoi: 2, gnsi: 3, gribi: 4, p4: 5 }
const SESSION_STATUS_OPERATION = 6
const AUTHN_TYPE_TLSCERT = 5
const AUTHN_STATUS_SUCCESS = 1
const AUTHZ_STATUS_PERMIT = 1
const AUTHZ_STATUS_DENY = 2
const TCP = 6

/** Exported for its test. */
export function accountingOf(record: AuditRecord, { address, port }: Pick<AcctzParts, 'address' | 'port'>): RecordResponseInit {
  const { principal, peer = '', method, decision, status = '', payload, atMs } = record
  const at = peer.lastIndexOf(':')
  const request = payload === undefined ? {} : { stringVal: `sha256:${payload}`, payloadIstruncated: true }
  return {
    sessionInfo: {
      localAddress: address,
      localPort: port,
      remoteAddress: at < 0 ? '' : peer.slice(0, at),
      remotePort: at < 0 ? 0 : Number(peer.slice(at + 1)) || 0,
      ipProto: TCP,
      status: SESSION_STATUS_OPERATION,
      user: { identity: principal, role: principal.split('/')[3] ?? '' },
      authn: { type: AUTHN_TYPE_TLSCERT, status: AUTHN_STATUS_SUCCESS },
    },
    timestamp: { seconds: Math.floor(atMs / 1000), nanos: Math.floor(atMs % 1000) * 1_000_000 },
    grpcService: {
      serviceType: SERVICE_TYPES[method.slice(1).split('.')[0] ?? ''] ?? 0,
      rpcName: method,
      ...request,
      authz: { status: decision === 'deny' ? AUTHZ_STATUS_DENY : AUTHZ_STATUS_PERMIT, detail: status === 'OK' ? '' : status },
    },
    taskIds: [String(record.sequence)],
  }
}
