/**
 * What confines a service's process besides Node's own permission model: resource limits, no privileges, namespaces and a uid of its
 * own. Set up by util-linux's tools, each of which executes the next. This module says what the machine has and what to run.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'

/** Uids of services: above what distributions and container managers hand out (systemd's list of them ends at 1879048191). */
export const UID_FIRST = 1_900_000_000
export const UIDS_MAX = 1_000_000
/** Threads of one service. Node has 6 to 15, and hangs at its start with fewer than 6. */
export const THREADS_MAX = 32
const FILES_MAX = 64
/** What Node maps as data before it runs anything: 575 MiB seen, nearly all of it never touched. */
const NODE_DATA_MB = 640
/** Descriptor of the node program: its path may lead through a directory that the service's uid cannot enter. */
export const NODE_DESCRIPTOR = 4
/** One run of the tools that ends by itself. */
const TRIAL_TIMEOUT_MS = 5_000

/** In the order in which they are tried; each with what is said of it. */
const LAYERS = { rlimits: 'rlimits', privileges: 'dropped privileges', namespaces: 'namespaces', uid: 'uid of its own' } as const
export type Layer = keyof typeof LAYERS

/** What this machine lets us do. */
export interface Means {
  readonly tools: Readonly<Record<'setpriv' | 'unshare' | 'prlimit' | 'env', string | undefined>>
  readonly layers: ReadonlySet<Layer>
  /** Why a layer is missing, as "no uid of its own: the agent is not root". */
  readonly missing: readonly string[]
  /** The bounding set of capabilities can be emptied. */
  readonly canDropBounding: boolean
  /** Namespaces come within a user namespace: the way without root. */
  readonly userNamespace: boolean
}

export interface Confined {
  readonly uid: number
  /** Bound on data mappings, where no cgroup bounds the memory; undefined: none. */
  readonly memoryMbMax: number | undefined
}

/** capabilities(7). */
const CAP_SETGID = 6n
const CAP_SETUID = 7n
const CAP_SETPCAP = 8n
const CAP_SYS_ADMIN = 21n

/**
 * Looks at the machine; synchronous, since it takes well under a millisecond. `trying`: also runs the tools, some ms each, and leaves
 * out what the kernel refuses all the same (as containers do); otherwise a refusal shows when a service starts.
 */
export function surveyMeans(trying: boolean): Means {
  const tools = { setpriv: findTool('setpriv'), unshare: findTool('unshare'), prlimit: findTool('prlimit'), env: findTool('env') }
  const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0'}`)
  const has = (...capabilities: bigint[]) => capabilities.every((one) => (effective >> one) & 1n)
  const why: Record<Layer, string | undefined> = {
    rlimits: tools.prlimit ? undefined : 'prlimit is not installed',
    privileges: tools.setpriv ? undefined : 'setpriv is not installed',
    namespaces: tools.unshare ? undefined : 'unshare is not installed',
    uid: tools.setpriv ? whyNoUid(has(CAP_SETUID, CAP_SETGID), readFileSync('/proc/self/uid_map', 'utf8')) : 'setpriv is not installed',
  }
  const userNamespace = !has(CAP_SYS_ADMIN)
  const means = { tools, userNamespace, canDropBounding: has(CAP_SETPCAP) || userNamespace, missing: [] }
  let layers = new Set<Layer>()
  for (const layer of Object.keys(LAYERS) as Layer[]) {
    const more = new Set([...layers, layer])
    if (trying) why[layer] ??= tryOut({ ...means, layers: more })
    if (why[layer] === undefined) layers = more
  }
  const missing = (Object.keys(LAYERS) as Layer[]).filter((layer) => !layers.has(layer)).map((layer) => `no ${LAYERS[layer]}: ${why[layer]}`)
  return { ...means, layers, missing }
}

/** The words before a program's own that run it confined. */
export function confinedCommand(means: Means, { uid, memoryMbMax }: Confined): string[] {
  const { tools, layers } = means
  const words: string[] = []
  if (layers.has('rlimits')) {
    // Not a byte can be written to a file. The bound on threads counts those of a uid.
    words.push(tools.prlimit as string, '--core=0', '--fsize=0', `--nofile=${FILES_MAX}`)
    if (layers.has('uid')) words.push(`--nproc=${THREADS_MAX}`)
    if (memoryMbMax !== undefined) words.push(`--data=${(memoryMbMax + NODE_DATA_MB) * 1024 * 1024}`)
  }
  if (layers.has('namespaces')) {
    // `unshare` stays as the parent of the service, the first process of the new PID namespace: with the one, the other is killed.
    if (layers.has('privileges')) words.push(tools.setpriv as string, '--pdeathsig', 'KILL')
    words.push(tools.unshare as string, '--net', '--pid', '--ipc', '--uts', '--fork', '--kill-child=KILL')
    if (means.userNamespace) words.push('--user', '--map-root-user')
  }
  const owner = layers.has('uid') ? ['--reuid', `${uid}`, '--regid', `${uid}`, '--clear-groups'] : []
  const bounding = means.canDropBounding && (layers.has('namespaces') || !means.userNamespace) ? ['--bounding-set=-all'] : []
  const dropped = layers.has('privileges') ? [...bounding, '--inh-caps=-all', '--ambient-caps=-all', '--no-new-privs', '--pdeathsig', 'KILL'] : []
  if (owner.length + dropped.length > 0) words.push(tools.setpriv as string, ...owner, ...dropped, '--')
  // `spawn` gets an empty environment, but what wraps it may add NODE_OPTIONS, as test runners do. The image has no `env`, and no need.
  if (tools.env) words.push(tools.env, '-i')
  return words
}

/** Node's own words. The script comes over standard input: no file has to be granted. */
export function nodeWords(heapMbMax: number, youngGenerationMbMax: number): string[] {
  return [
    `/proc/self/fd/${NODE_DESCRIPTOR}`,
    '--permission',
    '--no-addons',
    // For the host script alone, which hides it from the service (services/sdk/collect.ts).
    '--expose-gc',
    `--max-old-space-size=${heapMbMax}`,
    // V8 has two semi-spaces in use and one spare in its young generation.
    `--max-semi-space-size=${Math.max(1, Math.floor(youngGenerationMbMax / 3))}`,
    '-',
  ]
}

/** What `means` is, for Transport.confinement. */
export function describeMeans({ layers, missing }: Means, uid: number): string[] {
  return [
    'process',
    'permission',
    ...(layers.has('uid') ? [`uid ${uid}`] : []),
    ...(layers.has('privileges') ? ['privileges dropped'] : []),
    ...(layers.has('namespaces') ? ['network namespace', 'pid namespace'] : []),
    ...(layers.has('rlimits') ? ['rlimits'] : []),
    ...missing,
  ]
}

/** Uids for processes that live at the same time, no two the same. */
export class UidPool {
  readonly #taken = new Set<number>()

  /** The uid that belongs to `name`, or the next free one: two versions of a service may run at once. */
  take(name: string): number {
    let hash = 0x811c9dc5
    for (const byte of new TextEncoder().encode(name)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0
    let uid = UID_FIRST + (hash % UIDS_MAX)
    while (this.#taken.has(uid)) uid = uid + 1 < UID_FIRST + UIDS_MAX ? uid + 1 : UID_FIRST
    this.#taken.add(uid)
    return uid
  }

  free(uid: number): void {
    this.#taken.delete(uid)
  }
}

function whyNoUid(maySetIt: boolean, uidMap: string): string | undefined {
  if (!maySetIt) return 'the agent is not root'
  // user_namespaces(7): first id inside, first outside, count.
  const ranges = uidMap
    .trim()
    .split('\n')
    .map((line) => line.trim().split(/\s+/).map(Number))
  const mapped = ranges.some(([first = 0, , count = 0]) => first <= UID_FIRST && first + count >= UID_FIRST + UIDS_MAX)
  return mapped ? undefined : 'this user namespace has no uids to give'
}

function findTool(name: string): string | undefined {
  return ['/usr/bin', '/bin', '/usr/sbin', '/sbin'].map((directory) => `${directory}/${name}`).find((path) => existsSync(path))
}

/** What went wrong, or undefined. */
function tryOut(means: Means): string | undefined {
  const program = means.tools.setpriv ?? means.tools.prlimit ?? '/bin/true'
  const [command = '', ...words] = [...confinedCommand(means, { uid: UID_FIRST, memoryMbMax: undefined }), program, '--version']
  const { status, stderr, error } = spawnSync(command, words, { stdio: ['ignore', 'ignore', 'pipe'], env: {}, timeout: TRIAL_TIMEOUT_MS })
  if (status === 0) return undefined
  return error?.message ?? (String(stderr).trim().split('\n').at(-1) || `${command} ended with code ${status}`)
}
