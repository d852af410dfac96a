/** Where a passphrase comes from: a prompt without echo, a private file, or a file descriptor. Never an argument, never the environment. */
import { closeSync, openSync, readSync } from 'node:fs'
import { ReadStream, WriteStream } from 'node:tty'
import { messageOf, OffboxError } from '../../core/errors.ts'
import { checkPrivate } from './key-file.ts'

/** Answers a passphrase, or null when it has no other to offer. Kept in memory for as long as the command runs. */
export interface PassphraseSource {
  /** @param attempt from 0; a source with several passphrases (a file of lines) gives one after the other */
  get(what: string, attempt: number): Promise<string | null>
  /** One for new keys. @throws ARGUMENT_INVALID shorter than `passphraseCharsMin` */
  create(what: string): Promise<string>
}

export const passphraseCharsMin = 12
const passphraseBytesMax = 4096
/** Wrong answers at a prompt before it gives up. */
const PROMPTS_MAX = 3

/** Lines of a text, each a passphrase: owners of different keys may have different ones. The first is for new keys. */
export function fromText(text: string, where: string): PassphraseSource {
  const lines = text.split(/\r?\n/).filter((line) => line !== '')
  if (lines.length === 0) throw new OffboxError('ARGUMENT_INVALID', `${where} holds no passphrase`)
  return {
    get: async (_what, attempt) => lines[attempt] ?? null,
    create: async () => longEnough(lines[0] as string, where),
  }
}

/** @throws HOME_INVALID the file is open to others */
export async function fromFile(path: string): Promise<PassphraseSource> {
  await checkPrivate(path)
  const fd = openSync(path, 'r')
  try {
    return fromText(readBounded(fd, path), path)
  } finally {
    closeSync(fd)
  }
}

/** @throws ARGUMENT_INVALID nothing to read there, or too much */
export function fromDescriptor(fd: number): PassphraseSource {
  const where = `file descriptor ${fd}`
  return fromText(readBounded(fd, where), where)
}

/** To its end, which is at most one byte past the bound: a passphrase cut short is another passphrase. */
function readBounded(fd: number, where: string): string {
  const bytes = Buffer.alloc(passphraseBytesMax + 1)
  let length = 0
  try {
    for (let read = -1; read !== 0 && length < bytes.length; length += read) read = readSync(fd, bytes, length, bytes.length - length, null)
  } catch (error) {
    throw new OffboxError('ARGUMENT_INVALID', `${where} cannot be read: ${messageOf(error)}`, { cause: error })
  }
  if (length > passphraseBytesMax) throw new OffboxError('ARGUMENT_INVALID', `${where} has more than ${passphraseBytesMax} bytes`)
  return bytes.toString('utf8', 0, length)
}

/** Asks at the terminal, whatever stdin and stdout are. */
export function fromTerminal(): PassphraseSource {
  return {
    get: async (what, attempt) => (attempt < PROMPTS_MAX ? await ask(`${attempt > 0 ? 'That does not open it. ' : ''}Passphrase of ${what}: `) : null),
    create: async (what) => {
      const first = longEnough(await ask(`New passphrase for ${what}: `), 'the passphrase')
      if ((await ask('Once more: ')) !== first) throw new OffboxError('ARGUMENT_INVALID', 'the two passphrases differ; nothing was made')
      return first
    },
  }
}

function longEnough(passphrase: string, where: string): string {
  if ([...passphrase].length >= passphraseCharsMin) return passphrase
  throw new OffboxError('ARGUMENT_INVALID', `${where}: a passphrase needs at least ${passphraseCharsMin} characters`)
}

/** One line from /dev/tty, unseen. */
async function ask(prompt: string): Promise<string> {
  let input: ReadStream
  let output: WriteStream
  try {
    input = new ReadStream(openSync('/dev/tty', 'r'))
    output = new WriteStream(openSync('/dev/tty', 'w'))
  } catch (error) {
    throw new OffboxError('ARGUMENT_INVALID', 'no terminal to ask for a passphrase at; give --passphrase-file or --passphrase-fd', { cause: error })
  }
  // First: who types as soon as the prompt is there must not see it.
  input.setRawMode(true)
  output.write(prompt)
  try {
    return await line(input)
  } finally {
    input.setRawMode(false)
    output.write('\n')
    input.destroy()
    output.destroy()
  }
}

async function line(input: ReadStream): Promise<string> {
  let typed: string[] = []
  for await (const chunk of input) {
    for (const char of String(chunk)) {
      if (char === '\r' || char === '\n') return typed.join('')
      if (char === CTRL_C || char === CTRL_D) throw new OffboxError('ARGUMENT_INVALID', 'no passphrase was given')
      if (char === BACKSPACE || char === DELETE) typed.pop()
      else if (char === CTRL_U) typed = []
      else if (typed.length < passphraseBytesMax) typed.push(char)
    }
  }
  throw new OffboxError('ARGUMENT_INVALID', 'the terminal went away')
}

const [CTRL_C, CTRL_D, CTRL_U, BACKSPACE, DELETE] = ['\x03', '\x04', '\x15', '\b', '\x7f']
