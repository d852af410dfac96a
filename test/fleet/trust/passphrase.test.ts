import { closeSync, openSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { fromDescriptor, fromFile, type PassphraseSource } from '../../../fleet/trust/passphrase.ts'

/** The same text by both ways. */
async function both(t: Test, text: string, judge: (source: () => Promise<PassphraseSource>, way: string) => Promise<unknown>): Promise<void> {
  const path = join(t.testdir(), 'passphrase')
  writeFileSync(path, text, { mode: 0o600 })
  await judge(async () => await fromFile(path), 'file')
  const fd = openSync(path, 'r')
  await judge(async () => fromDescriptor(fd), 'descriptor')
  closeSync(fd)
}

t.test('passphrases are the lines of a file or of a descriptor, in order', async (t) => {
  await both(t, 'the first of them\r\n\nthe second, größer\n', async (source, way) => {
    const given = await source()
    t.equal(await given.create('new keys'), 'the first of them', way)
    t.same([await given.get('', 0), await given.get('', 1), await given.get('', 2)], ['the first of them', 'the second, größer', null], way)
  })
})

t.test('a text of 4096 bytes is taken whole, a longer one refused and never cut', async (t) => {
  await both(t, 'ü'.repeat(2048), async (source, way) => t.equal(await (await source()).get('', 0), 'ü'.repeat(2048), way))
  await both(t, 'ü'.repeat(2049), async (source, way) => {
    await t.rejects(source(), { code: 'ARGUMENT_INVALID', message: /has more than 4096 bytes/ }, way)
  })
  const endless = openSync('/dev/zero', 'r')
  t.throws(() => fromDescriptor(endless), { code: 'ARGUMENT_INVALID', message: /has more than 4096 bytes/ }, 'nor is it read to its end')
  closeSync(endless)
})

t.test('nothing, and what cannot be read, are said', async (t) => {
  await both(t, '\n', async (source, way) => await t.rejects(source(), { code: 'ARGUMENT_INVALID', message: /holds no passphrase/ }, way))
  t.throws(() => fromDescriptor(999_999), { code: 'ARGUMENT_INVALID', message: /cannot be read/ })
})
