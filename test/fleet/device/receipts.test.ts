import t from 'tap'
import { receiptsMax } from '../../../agent/limits.ts'
import { RECEIPT_FORMAT, readReceipt } from '../../../core/receipt.ts'
import { collectReceipts, receiptsKeptMax, type SignedReceipt } from '../../../fleet/device/receipts.ts'

function receipt(sequence: number): SignedReceipt {
  const texts = {
    deviceId: 'sw1',
    previous: '',
    changeId: 'c-1',
    kind: 'install',
    service: 'a',
    from: '',
    to: '',
    reason: '',
    error: '',
    author: '',
    bootId: '',
  }
  const numbers = { sequence, heldMs: 0, heldCalls: 0, proposedAtMs: 0, endedAtMs: 0, endedMonotonicMs: 0 }
  const body = { format: RECEIPT_FORMAT, ...texts, ...numbers, outcome: 'confirmed', manifests: { from: '', to: '' }, steps: [] }
  return { body: new TextEncoder().encode(JSON.stringify(body)), signature: new Uint8Array(64), chainPem: '' }
}

/** Answers these pages one after the other, and fails when it is asked once more than that. */
function device(...pages: number[][]) {
  const asked: number[] = []
  const page = async (before: number) => {
    const numbers = pages[asked.push(before) - 1]
    if (!numbers) throw new Error('asked too often')
    return numbers.map(receipt)
  }
  return { asked, page }
}

const numbers = (signed: readonly SignedReceipt[]) => signed.map(({ body }) => readReceipt(body).sequence)

t.test('pages are fetched until the first receipt, or until there are none before', async (t) => {
  const whole = device([4, 5], [2, 3], [1])
  t.same(numbers(await collectReceipts(whole.page)), [1, 2, 3, 4, 5])
  t.same(whole.asked, [0, 4, 2])
  const young = device([8, 9], [])
  t.same(numbers(await collectReceipts(young.page)), [8, 9], 'what is older is kept no more')
  t.same(await collectReceipts(device([]).page), [])
})

t.test('a device that sends numbers in a circle is refused at the first that does not fall', async (t) => {
  for (const pages of [[[5], [9], [5]], [[5], [5]], [[5, 4]], [[5, 5]], [[2], [0]], [[2], [1.5]], [[-1]]]) {
    const { page } = device(...pages)
    await t.rejects(collectReceipts(page), { code: 'CERTIFICATE_INVALID', message: /prove nothing/ }, JSON.stringify(pages))
  }
})

t.test('a device that sends more than one keeps is refused', async (t) => {
  t.equal(receiptsKeptMax, receiptsMax)
  const falling = Array.from({ length: receiptsMax }, (_, index) => [2 * receiptsMax - index])
  t.equal((await collectReceipts(device(...falling, []).page)).length, receiptsMax)
  await t.rejects(collectReceipts(device(...falling, [receiptsMax]).page), { code: 'CERTIFICATE_INVALID', message: /more than 256/ })
})
