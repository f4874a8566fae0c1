/* ecz.h: unpacks .ecz files, which `edgecc pack` makes. One file, C99, no dependency, no heap.
 *
 * In one source file of the program:   #define ECZ_IMPLEMENTATION
 *                                      #include "ecz.h"
 * Then:
 *     size_t need = ecz_size(file, length);               bytes of the original, 0 if this is no .ecz file
 *     size_t work = ecz_workspace(file, length);          bytes of memory needed besides
 *     int status = ecz_unpack(file, length, out, need, memory, work);
 * The file may lie in flash. About 1.3 kB of stack, 2 kB of code on Cortex-M. A damaged file gives an error, never a
 * write outside `out` and `memory`. The format is described in edgecc/pack/container.py and codec.py; the entropy
 * coder is raw deflate (RFC 1951).
 */
#ifndef ECZ_H
#define ECZ_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ECZ_OK 0
#define ECZ_NOT_ECZ -1  /* another kind of file, or a newer version */
#define ECZ_DAMAGED -2  /* cut off or altered */
#define ECZ_TOO_SMALL -3 /* `out` or `memory` is smaller than needed */

size_t ecz_size(const uint8_t *file, size_t length);
size_t ecz_workspace(const uint8_t *file, size_t length);
int ecz_unpack(const uint8_t *file, size_t length, uint8_t *out, size_t out_size, uint8_t *memory, size_t memory_size);

#ifdef __cplusplus
}
#endif
#endif /* ECZ_H */

#ifdef ECZ_IMPLEMENTATION

enum { ECZ_PLAIN = 0, ECZ_PLANES = 1, ECZ_PALETTE = 2, ECZ_SPARSE = 4, ECZ_HEADER = 20, ECZ_RECORD = 20 };

static uint32_t ecz_u32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* ---- raw deflate ---- */

typedef struct {
    const uint8_t *in;
    size_t left;      /* bytes not read yet */
    uint32_t bits;    /* read, not used yet */
    int count;        /* how many of them */
    int failed;
} ecz_reader;

typedef struct {
    uint16_t counts[16];   /* codes of each length */
    uint16_t symbols[288]; /* in order of their codes */
} ecz_codes;

static uint32_t ecz_bits(ecz_reader *r, int want) {
    while (r->count < want) {
        if (!r->left) {
            r->failed = 1;
            return 0;
        }
        r->bits |= (uint32_t)*r->in++ << r->count;
        r->left--;
        r->count += 8;
    }
    uint32_t found = want ? r->bits & (0xffffffffu >> (32 - want)) : 0;
    r->bits >>= want;
    r->count -= want;
    return found;
}

/* Canonical codes from their lengths; 0 if the lengths are those of no prefix code. */
static int ecz_build(ecz_codes *codes, const uint8_t *lengths, int n) {
    uint16_t next[16];
    int i, left = 1;
    for (i = 0; i < 16; i++) codes->counts[i] = 0;
    for (i = 0; i < n; i++) codes->counts[lengths[i]]++;
    codes->counts[0] = 0;
    for (i = 1; i < 16; i++) {
        left = 2 * left - codes->counts[i];
        if (left < 0) return 0;
    }
    next[1] = 0;
    for (i = 1; i < 15; i++) next[i + 1] = (uint16_t)(next[i] + codes->counts[i]);
    for (i = 0; i < n; i++)
        if (lengths[i]) codes->symbols[next[lengths[i]]++] = (uint16_t)i;
    return 1;
}

static int ecz_symbol(ecz_reader *r, const ecz_codes *codes) {
    int code = 0, first = 0, index = 0, length;
    for (length = 1; length < 16; length++) {
        int count = codes->counts[length];
        code |= (int)ecz_bits(r, 1);
        if (r->failed) return -1;
        if (code - first < count) return codes->symbols[index + code - first];
        index += count;
        first = (first + count) << 1;
        code <<= 1;
    }
    return -1;
}

static int ecz_tables(ecz_reader *r, int kind, ecz_codes *literals, ecz_codes *distances) {
    static const uint8_t order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    uint8_t lengths[320];
    int i, n, d, c;
    if (kind == 1) { /* the fixed codes */
        for (i = 0; i < 288; i++) lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
        for (i = 0; i < 30; i++) lengths[288 + i] = 5;
        return ecz_build(literals, lengths, 288) && ecz_build(distances, lengths + 288, 30);
    }
    n = (int)ecz_bits(r, 5) + 257;
    d = (int)ecz_bits(r, 5) + 1;
    c = (int)ecz_bits(r, 4) + 4;
    if (n > 286 || d > 30) return 0;
    for (i = 0; i < 19; i++) lengths[order[i]] = i < c ? (uint8_t)ecz_bits(r, 3) : 0;
    if (!ecz_build(literals, lengths, 19)) return 0;
    for (i = 0; i < n + d;) {
        int symbol = ecz_symbol(r, literals), repeat = 1;
        uint8_t value = (uint8_t)symbol;
        if (symbol < 0) return 0;
        if (symbol == 16) {
            if (!i) return 0;
            value = lengths[i - 1];
            repeat = 3 + (int)ecz_bits(r, 2);
        } else if (symbol > 16) {
            value = 0;
            repeat = symbol == 17 ? 3 + (int)ecz_bits(r, 3) : 11 + (int)ecz_bits(r, 7);
        }
        if (i + repeat > n + d) return 0;
        while (repeat--) lengths[i++] = value;
    }
    return !r->failed && ecz_build(literals, lengths, n) && ecz_build(distances, lengths + n, d);
}

/* Exactly `size` bytes to `out`; 0 if the stream has others. */
static int ecz_inflate(const uint8_t *in, size_t length, uint8_t *out, size_t size) {
    static const uint16_t base[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                      31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    static const uint16_t far[30] = {1,   2,   3,   4,   5,   7,    9,    13,   17,   25,   33,   49,   65,    97,    129,
                                     193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
    ecz_reader r = {in, length, 0, 0, 0};
    ecz_codes literals, distances;
    size_t at = 0;
    int last;
    do {
        last = (int)ecz_bits(&r, 1);
        int kind = (int)ecz_bits(&r, 2);
        if (r.failed || kind == 3) return 0;
        if (kind == 0) {
            uint32_t n;
            r.bits = 0; /* the rest of the byte */
            r.count = 0;
            n = ecz_bits(&r, 16);
            if ((ecz_bits(&r, 16) ^ n) != 0xffff || r.failed || n > r.left || n > size - at) return 0;
            r.left -= n;
            while (n--) out[at++] = *r.in++;
            continue;
        }
        if (!ecz_tables(&r, kind, &literals, &distances)) return 0;
        for (;;) {
            int symbol = ecz_symbol(&r, &literals);
            if (symbol < 0) return 0;
            if (symbol < 256) {
                if (at == size) return 0;
                out[at++] = (uint8_t)symbol;
            } else if (symbol == 256) {
                break;
            } else {
                size_t run, back;
                symbol -= 257;
                if (symbol > 28) return 0;
                run = base[symbol] + ecz_bits(&r, symbol < 8 || symbol == 28 ? 0 : (symbol - 4) / 4);
                symbol = ecz_symbol(&r, &distances);
                if (symbol < 0 || symbol > 29) return 0;
                back = far[symbol] + ecz_bits(&r, symbol < 4 ? 0 : (symbol - 2) / 2);
                if (r.failed || back > at || run > size - at) return 0;
                for (; run--; at++) out[at] = out[at - back];
            }
        }
    } while (!last);
    return at == size;
}

/* ---- the container ---- */

size_t ecz_size(const uint8_t *file, size_t length) {
    if (length < ECZ_HEADER || file[0] != 'E' || file[1] != 'C' || file[2] != 'Z' || file[3] != '1') return 0;
    return ecz_u32(file + 4);
}

size_t ecz_workspace(const uint8_t *file, size_t length) {
    return ecz_size(file, length) ? ecz_u32(file + 16) : 0;
}

/* (gap, value) pairs to `count` bytes. */
static int ecz_expand(const uint8_t *gaps, size_t pairs, const uint8_t *values, uint8_t fill, uint8_t *out, size_t count) {
    size_t i, at = 0;
    for (i = 0; i < pairs; i++) {
        size_t gap = gaps[i];
        if (gap > count - at) return 0;
        for (; gap--;) out[at++] = fill;
        if (gaps[i] != 255) {
            if (at == count) return 0;
            out[at++] = *values++;
        }
    }
    while (at < count) out[at++] = fill;
    return 1;
}

/* One stretch: `record` is its head, `body` what follows. Indices and planes are made at the front of `memory`. */
static int ecz_stretch(const uint8_t *record, const uint8_t *body, uint8_t *out, uint8_t *memory, size_t memory_size) {
    size_t size = ecz_u32(record), pairs = ecz_u32(record + 8), one = ecz_u32(record + 12), two = ecz_u32(record + 16);
    int form = record[4];
    size_t width = record[5], entries = (size_t)record[7] + 1, i, j;
    size_t count = form & ECZ_PALETTE ? size / width : size;
    const uint8_t *book = body;
    if (form & ECZ_PALETTE) body += entries * width;
    if (form == ECZ_PLAIN) return ecz_inflate(body, one, out, size) ? ECZ_OK : ECZ_DAMAGED;
    if (form & ECZ_SPARSE) {
        size_t values = 0;
        if (2 * pairs > memory_size) return ECZ_TOO_SMALL;
        if (!ecz_inflate(body, one, memory, pairs)) return ECZ_DAMAGED;
        for (i = 0; i < pairs; i++) values += memory[i] != 255;
        if (!ecz_inflate(body + one, two, memory + pairs, values)) return ECZ_DAMAGED;
        /* indices of a palette go to the end of `out`, and are read before they are written over */
        if (!ecz_expand(memory, pairs, memory + pairs, record[6], out + (size - count), count)) return ECZ_DAMAGED;
        if (form == ECZ_SPARSE) return ECZ_OK;
        memory = out + (size - count);
    } else {
        if (count > memory_size) return ECZ_TOO_SMALL;
        if (!ecz_inflate(body, one, memory, count)) return ECZ_DAMAGED;
    }
    for (i = 0; i < size / width; i++) {
        if (form & ECZ_PALETTE) {
            size_t entry = memory[i];
            if (entry >= entries) return ECZ_DAMAGED;
            for (j = 0; j < width; j++) out[i * width + j] = book[entry * width + j];
        } else {
            for (j = 0; j < width; j++) out[i * width + j] = memory[j * (size / width) + i];
        }
    }
    return ECZ_OK;
}

static uint32_t ecz_crc32(const uint8_t *data, size_t length) {
    uint32_t crc = 0xffffffffu;
    while (length--) {
        int i;
        crc ^= *data++;
        for (i = 0; i < 8; i++) crc = crc >> 1 ^ (0xedb88320u & (0u - (crc & 1)));
    }
    return ~crc;
}

int ecz_unpack(const uint8_t *file, size_t length, uint8_t *out, size_t out_size, uint8_t *memory, size_t memory_size) {
    size_t size = ecz_size(file, length), at = ECZ_HEADER, written = 0, n;
    if (!size) return ECZ_NOT_ECZ;
    if (out_size < size || memory_size < ecz_workspace(file, length)) return ECZ_TOO_SMALL;
    for (n = ecz_u32(file + 12); n; n--) {
        const uint8_t *record = file + at;
        size_t body, streams, left;
        int form, status;
        if (length - at < ECZ_RECORD) return ECZ_DAMAGED;
        form = record[4];
        if (form > 6 || form == 3 || form == 5 || !record[5] || record[5] > 8) return ECZ_NOT_ECZ;
        body = at + ECZ_RECORD + (form & ECZ_PALETTE ? ((size_t)record[7] + 1) * record[5] : 0);
        left = body < length ? length - body : 0;
        streams = ecz_u32(record + 12);
        if (streams > left || ecz_u32(record + 16) > left - streams) return ECZ_DAMAGED;
        if (ecz_u32(record) > size - written || ecz_u32(record) % (form ? record[5] : 1)) return ECZ_DAMAGED;
        if (body > length || ecz_u32(record + 8) > ecz_u32(record)) return ECZ_DAMAGED;
        status = ecz_stretch(record, file + at + ECZ_RECORD, out + written, memory, memory_size);
        if (status) return status;
        written += ecz_u32(record);
        at = body + streams + ecz_u32(record + 16);
    }
    return written == size && at == length && ecz_crc32(out, size) == ecz_u32(file + 8) ? ECZ_OK : ECZ_DAMAGED;
}

#endif /* ECZ_IMPLEMENTATION */
