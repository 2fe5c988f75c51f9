#include "io/sha256.h"

#include <openssl/evp.h>

#include <array>

#include "error.h"

namespace mixwright::io {
namespace {

void require(int status) {
    if (status != 1) throw Error(ErrorCode::internal, "SHA-256: OpenSSL refused");
}

}  // namespace

struct Sha256::State {
    EVP_MD_CTX* context = EVP_MD_CTX_new();
    ~State() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : state_(std::make_unique<State>()) { require(EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr)); }
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256::~Sha256() = default;

void Sha256::update(std::span<const std::byte> bytes) {
    require(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()));
}

std::string Sha256::hex() {
    static constexpr char digits[] = "0123456789abcdef";
    std::array<unsigned char, 32> digest{};
    require(EVP_DigestFinal_ex(state_->context, digest.data(), nullptr));
    std::string text;
    for (const unsigned char byte : digest) text += {digits[byte >> 4], digits[byte & 15]};
    return text;
}

std::string sha256(std::string_view text) {
    Sha256 hash;
    hash.update(text);
    return hash.hex();
}

}  // namespace mixwright::io
