"""A convolutional network with channel-wise dropout (document 1, section 4.2).

    python examples/seeds/document1_convnet.py --synthetic --epochs 2     # without the data
    python examples/seeds/document1_convnet.py                            # fetches MNIST into data/

Repaired: one input channel and 9216 features fit MNIST, not the CIFAR-10 that the document loads;
`F` is imported; the loss that goes with log-probabilities is NLLLoss; dropout between the dense
layers drops single features (Dropout2d on a matrix is deprecated in PyTorch); the accuracy on the
test images, which the document loads and then forgets, is printed.
"""

from __future__ import annotations

import argparse

import image_data

import allgrad as torch
import allgrad.nn.functional as F  # noqa: N812 - as everybody writes it
from allgrad import nn, optim
from allgrad.vision import transforms


class Net(nn.Module):
    """Two convolutions, two dense layers, log-probabilities of ten classes."""

    def __init__(self) -> None:
        super(Net, self).__init__()  # noqa: UP008 - the document's spelling
        self.conv1 = nn.Conv2d(1, 32, 3, 1)
        self.conv2 = nn.Conv2d(32, 64, 3, 1)
        self.dropout1 = nn.Dropout2d(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(9216, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)
        x = F.relu(x)
        x = self.conv2(x)
        x = F.relu(x)
        x = F.max_pool2d(x, 2)
        x = self.dropout1(x)
        x = torch.flatten(x, 1)
        x = self.fc1(x)
        x = F.relu(x)
        x = self.dropout2(x)
        x = self.fc2(x)
        return F.log_softmax(x, dim=1)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train, and return the last figures; `argv` stands for the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    image_data.add_options(parser, epochs=10)
    parser.add_argument("--lr", type=float, default=0.001, help="learning rate (0.001)")
    options = parser.parse_args(argv)

    torch.manual_seed(options.seed)
    transform = transforms.ToTensor()
    trainset = image_data.load("MNIST", True, transform, options)
    trainloader = torch.utils.data.DataLoader(trainset, batch_size=100, shuffle=True, num_workers=2)
    testset = image_data.load("MNIST", False, transform, options)
    testloader = torch.utils.data.DataLoader(testset, batch_size=100, shuffle=False, num_workers=2)

    net = Net()
    criterion = nn.NLLLoss()
    optimizer = optim.SGD(net.parameters(), lr=options.lr, momentum=0.9)
    for epoch in range(options.epochs):  # loop over the dataset multiple times
        running_loss = 0.0
        for data in trainloader:
            inputs, labels = data
            optimizer.zero_grad()
            outputs = net(inputs)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
        print("[%d] loss: %.3f" % (epoch + 1, running_loss / len(trainloader)))  # noqa: UP031

    net.eval()
    correct = 0
    with torch.no_grad():
        for images, labels in testloader:
            correct += (net(images).argmax(dim=1) == labels).sum().item()
    kind = "synthetic" if options.synthetic else "test"
    accuracy = correct / len(testset)
    print(f"Finished Training, {100 * accuracy:.1f} % of {len(testset)} {kind} images right")
    return {"loss": running_loss / len(trainloader), "accuracy": accuracy}


if __name__ == "__main__":
    main()
