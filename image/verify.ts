/**
 * Reads a built image back and lists what must not be in it. Trusts nothing that the build says: the initramfs is unpacked
 * and every file is looked at. A program of its own: `node image/verify.ts --image DIR [--json]`, exit code 1 on a violation.
 */
import { readFile } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { parseArgs, promisify } from 'node:util'
import { zstdDecompress } from 'node:zlib'
import type { Entry } from './cpio.ts'
import { readCpio } from './cpio-read.ts'
import { describeFiles, sealFacts, sha256, type ImageDescription } from './facts.ts'
import { ImageFailure, reportFailure } from './failure.ts'

export interface Violation {
  readonly rule: string
  readonly path: string
  readonly detail: string
}

const ARCHIVE_BYTES_MAX = 1024 * 1024 * 1024

/** Names of programs that give somebody a prompt, let somebody in or change what is installed. */
const FORBIDDEN_NAMES: ReadonlyArray<{ readonly rule: string; readonly names: RegExp }> = [
  { rule: 'shell', names: /^(sh|r?bash|dash|ash|zsh|m?ksh|t?csh|fish|busybox|toybox|perl|python[\d.]*|lua\d*|awk|script|screen|tmux)$/ },
  { rule: 'ssh', names: /^(ssh|sshd|ssh-.*|scp|sftp.*|dropbear.*|dbclient|sshd_config|authorized_keys|libssh[^-].*)$/ },
  { rule: 'login', names: /^(login|a?getty|mingetty|su|sudo|doas|passwd|g?shadow|telnetd?|in\.telnetd|rlogind?|rshd?|ftpd|chpasswd|securetty)$/ },
  { rule: 'package manager', names: /^(apt.*|dpkg.*|rpm|yum|dnf|apk|opkg|pacman|snap|flatpak|npm|npx|corepack|yarn|pnpm|pip[\d.]*)$/ },
  { rule: 'debugger', names: /^(gdb|gdbserver|strace|ltrace|perf|curl|wget|nc|ncat|netcat|socat)$/ },
]

/** Bytes that such programs carry whatever they are called. */
const FORBIDDEN_BYTES: ReadonlyArray<{ readonly rule: string; readonly bytes: string }> = [
  { rule: 'shell', bytes: 'BusyBox v' },
  { rule: 'shell', bytes: 'BASH_VERSION' },
  { rule: 'ssh', bytes: 'SSH-2.0-' },
  { rule: 'login', bytes: 'pam_authenticate' },
]

/** Every file of an image has a reason to be there; what matches none of these was not meant to be. */
const EXPECTED = [
  /^\/init$/,
  /^\/bin\/node$/,
  /^\/sbin\/ip$/,
  /^\/bin\/(prlimit|setpriv|unshare)$/,
  /^\/usr\/sbin\/bird$/,
  /^\/app\/(main\.mjs|examiner\.js|(worker|process)-host\.js)$/,
  /^\/etc\/offbox\/(agent|anchors\.json|image\.json|modules)$/,
  /^\/lib64\/ld-linux-x86-64\.so\.2$/,
  /^\/lib\/x86_64-linux-gnu\/lib[\w.+-]+\.so(\.\d+)*$/,
  /^\/lib\/modules\/[\w.-]+\/kernel\/[\w/-]+\.ko$/,
]

/** A PEM private key with a body, also inside a JSON string: programs that can read keys hold the bare header line. */
const PRIVATE_KEY = /-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----(?:\s|\\[nr])+(?:[A-Za-z0-9-]+: [^\n]*\n)*[A-Za-z0-9+/=]{40}/

/**
 * @param imageDir holds vmlinuz, initrd.img and image.json
 * @returns nothing when the image is as it must be
 * @throws IMAGE_INVALID it cannot be read at all
 */
export async function verifyImage(imageDir: string): Promise<Violation[]> {
  const [vmlinuz, initrd, json] = await Promise.all(['vmlinuz', 'initrd.img', 'image.json'].map((name) => readPart(imageDir, name)))
  if (!vmlinuz || !initrd || !json) throw new ImageFailure('IMAGE_INVALID', `${imageDir} is incomplete`)
  let description: ImageDescription
  let archive: Buffer
  try {
    description = JSON.parse(json.toString('utf8'))
    archive = await promisify(zstdDecompress)(initrd, { maxOutputLength: ARCHIVE_BYTES_MAX })
  } catch (error) {
    throw new ImageFailure('IMAGE_INVALID', `${imageDir} cannot be read: ${(error as Error).message}`, { cause: error })
  }
  const entries = readCpio(archive)
  const violations = entries.flatMap(checkEntry)
  const digest = (path: string, actual: string, stated: string | undefined) => {
    if (actual !== stated) violations.push({ rule: 'digest', path, detail: 'differs from image.json' })
  }
  digest('vmlinuz', sha256(vmlinuz), description.artifacts?.vmlinuz?.sha256)
  digest('initrd.img', sha256(initrd), description.artifacts?.['initrd.img']?.sha256)
  const files = describeFiles(entries).filter((file) => file.path !== '/etc/offbox/image.json')
  digest('initrd.img', JSON.stringify(files), JSON.stringify(description.files))
  const { artifacts: _artifacts, ...facts } = description
  digest('image.json', sealFacts(facts).imageSha256, facts.imageSha256)
  const inside = entries.find((entry) => entry.path === '/etc/offbox/image.json')
  const carried = inside?.type === 'file' ? JSON.stringify(JSON.parse(Buffer.from(inside.data).toString('utf8'))) : ''
  digest('/etc/offbox/image.json', carried, JSON.stringify(facts))
  return violations
}

/** What is wrong with one entry by itself. */
export function checkEntry(entry: Entry): Violation[] {
  const violations: Violation[] = []
  const add = (rule: string, detail: string) => violations.push({ rule, path: entry.path, detail })
  for (const { rule, names } of FORBIDDEN_NAMES) {
    if (names.test(basename(entry.path))) add(rule, 'by its name')
  }
  if ((entry.mode & 0o6000) !== 0) add('setuid', `mode ${entry.mode.toString(8)}`)
  if ((entry.mode & 0o002) !== 0 && entry.type !== 'device') add('world-writable', `mode ${entry.mode.toString(8)}`)
  if (entry.type === 'directory' || entry.type === 'device') return violations
  if (!EXPECTED.some((pattern) => pattern.test(entry.path))) add('unexpected', 'not in image/profile.ts')
  if (entry.type === 'symlink') return violations
  const data = Buffer.from(entry.data.buffer, entry.data.byteOffset, entry.data.byteLength)
  for (const { rule, bytes } of FORBIDDEN_BYTES) {
    if (data.includes(bytes)) add(rule, `holds ${JSON.stringify(bytes)}`)
  }
  if (data.length > 2 && data.toString('latin1', 0, 2) === '#!') add('shell', 'is a script')
  if (data.includes('PRIVATE KEY-----') && PRIVATE_KEY.test(data.toString('latin1'))) add('private key', 'holds one in PEM')
  if (entry.path === '/etc/offbox/anchors.json') violations.push(...checkAnchors(entry.path, data))
  return violations
}

/** The only file that comes from the home directory, where the keys are: nothing in it but what is known to be public. */
function checkAnchors(path: string, data: Buffer): Violation[] {
  let anchors: Record<string, unknown>
  try {
    anchors = JSON.parse(data.toString('utf8'))
  } catch {
    return [{ rule: 'private key', path, detail: 'is not JSON' }]
  }
  const { fleet, caPem, bundleKeys, trust, ...rest } = anchors
  const isPublic =
    Object.keys(rest).length === 0 &&
    /^[a-z][a-z0-9-]{0,39}$/.test(String(fleet)) &&
    /^(-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----\s*)+$/.test(String(caPem)) &&
    Array.isArray(bundleKeys) &&
    bundleKeys.every((key) => /^[0-9a-f]{64}$/.test(String(key))) &&
    (trust === undefined || isPublicTrust(trust))
  return isPublic ? [] : [{ rule: 'private key', path, detail: 'holds more than a fleet name, certificates, public keys and root metadata' }]
}

/** Root metadata is public as a whole; what it may consist of is named here all the same. */
function isPublicTrust(trust: unknown): boolean {
  try {
    const { root, witnessKeys, builtAtMs, ...rest } = trust as Record<string, unknown>
    const { signed, signatures, ...more } = JSON.parse(String(root)) as Record<string, unknown>
    const { keys, roles, ...facts } = signed as Record<string, object>
    const known = ['_type', 'spec_version', 'version', 'expires', 'consistent_snapshot']
    return (
      Object.keys(rest).length === 0 &&
      Number.isSafeInteger(builtAtMs) &&
      (witnessKeys as string[]).every((key) => HEX_32.test(key)) &&
      Object.keys(more).length === 0 &&
      Object.keys(facts).every((name) => known.includes(name)) &&
      Object.entries(keys as object).every(([keyid, key]) => HEX_32.test(keyid) && isShape(key, PUBLIC_KEY)) &&
      Object.values(roles as object).every((role) => isShape(role, ROLE)) &&
      (signatures as unknown[]).every((signature) => isShape(signature, SIGNATURE))
    )
  } catch {
    return false
  }
}

const HEX_32 = /^[0-9a-f]{64}$/
const PUBLIC_KEY = /^\{"keytype":"ed25519","keyval":\{"public":"[0-9a-f]{64}"\},"scheme":"ed25519"\}$/
const ROLE = /^\{"keyids":\["[0-9a-f",]+"\],"threshold":\d+\}$/
const SIGNATURE = /^\{"keyid":"[0-9a-f]{64}","sig":"[0-9a-f]{128}"\}$/

/** Compared as text with the names in order: nothing else has a place in it. */
function isShape(value: unknown, shape: RegExp): boolean {
  const sorted = (_: string, one: unknown) =>
    typeof one === 'object' && one !== null && !Array.isArray(one) ? Object.fromEntries(Object.entries(one).sort(([a], [b]) => (a < b ? -1 : 1))) : one
  return shape.test(JSON.stringify(value, sorted))
}

export function formatViolations(violations: readonly Violation[]): string {
  return violations.map(({ rule, path, detail }) => `  ${rule}: ${path} (${detail})`).join('\n')
}

async function readPart(imageDir: string, name: string): Promise<Buffer> {
  return readFile(join(imageDir, name)).catch((error) => {
    throw new ImageFailure('IMAGE_INVALID', `${imageDir} has no usable ${name} (${error.code}); run: offbox image build`, { cause: error })
  })
}

async function main(): Promise<void> {
  const json = process.argv.includes('--json')
  try {
    const { values } = parseArgs({ options: { image: { type: 'string' }, json: { type: 'boolean', default: false } } })
    const imageDir = resolve(values.image ?? join(process.env['OFFBOX_HOME'] ?? '.offbox', 'image'))
    const violations = await verifyImage(imageDir)
    if (json) process.stdout.write(`${JSON.stringify({ image: imageDir, violations })}\n`)
    if (violations.length === 0) process.stderr.write(`${imageDir}: nothing in it that must not be\n`)
    else throw new ImageFailure('IMAGE_INVALID', `${violations.length} violations\n${formatViolations(violations)}`)
  } catch (error) {
    reportFailure(error, json && !(error instanceof ImageFailure && error.message.includes('violations\n')))
  }
}

if (process.argv[1] === import.meta.filename) await main()
